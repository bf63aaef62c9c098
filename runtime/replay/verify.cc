#include "runtime/replay/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "base/convert.h"
#include "base/int8_rows.h"
#include "base/log.h"
#include "base/saturating.h"
#include "runtime/model/digest.h"

namespace airlock {
namespace {

constexpr std::size_t kChunkCount = 4096;  // elements compared at a time

std::string dims_text(const ModelDims& dims) {
  return fmt::format("hidden {}, intermediate {}, layers {}, heads {}/{} of {}, vocab {}",
                     dims.hidden, dims.intermediate, dims.layers, dims.heads, dims.kv_heads,
                     dims.head_dim, dims.vocab);
}

/// Elements of two tensors of words that differ.
std::size_t count_unlike(const std::byte* got, const std::byte* expected, std::size_t bytes) {
  std::size_t unlike = 0;
  for (std::size_t at = 0; at < bytes; at += sizeof(std::uint32_t))
    unlike += std::memcmp(got + at, expected + at, sizeof(std::uint32_t)) == 0 ? 0 : 1;
  return unlike;
}

double error_of(float got, float expected) {
  if (got == expected || (std::isnan(got) && std::isnan(expected))) return 0;
  const double error = std::abs(static_cast<double>(got) - static_cast<double>(expected));
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

/// How far values lie from those that were recorded.
struct Distance {
  double worst = 0;
  double largest = 0;  // of the recorded ones

  void add(std::span<const float> got, std::span<const float> expected) {
    for (std::size_t i = 0; i < got.size(); ++i) {
      worst = std::max(worst, error_of(got[i], expected[i]));
      if (std::isfinite(expected[i])) {
        largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
      }
    }
  }
  std::string judge(double tolerance) const {
    if (worst <= tolerance * largest) return {};
    return fmt::format("an error of {:.3g} of the largest recorded, the tolerance is {:g}",
                       worst / std::max(largest, 1e-300), tolerance);
  }
};

}  // namespace

Status ReplayVerifier::check_input(const TraceRecord& record, std::size_t index,
                                   TensorView input) const {
  if (mode_ != ReplayVerify::kDigest) return {};
  const std::string digest = sha256_of(input.bytes());
  if (digest == record.inputs[index].sha256) return {};
  return Status(StatusCode::kInvalidInput,
                "{}: tensor '{}' is not the recorded one: SHA-256 {}, recorded {}",
                payload_->file().path(), payload_tensor_name(record.seq, TraceSide::kInput, index),
                digest, record.inputs[index].sha256);
}

Result<std::string> ReplayVerifier::check(const TraceRecord& record, std::size_t index,
                                          TensorView got) const {
  if (mode_ == ReplayVerify::kNone) return std::string();
  if (mode_ == ReplayVerify::kTolerance) return check_values(record, index, got);
  const std::string digest = sha256_of(got.bytes());
  const std::string& recorded = record.outputs[index].sha256;
  if (digest == recorded) return std::string();
  return fmt::format("SHA-256 {}, recorded {}", digest, recorded);
}

Result<std::string> ReplayVerifier::check_values(const TraceRecord& record, std::size_t index,
                                                 TensorView got) const {
  const DType dtype = got.desc.dtype;  // of a result: a float type, int8 rows or words
  if (dtype == DType::kI8) return check_int8_rows(record, index, got);
  const std::size_t element_bytes = dtype_bytes(dtype);
  std::array<std::byte, kChunkCount * sizeof(float)> raw;
  std::array<float, kChunkCount> expected;
  std::array<float, kChunkCount> values;
  const bool is_words = dtype == DType::kU32;
  std::size_t unlike = 0;
  Distance distance;
  const std::size_t count = got.desc.elements();
  for (std::size_t first = 0; first < count; first += kChunkCount) {
    const std::size_t chunk = std::min(kChunkCount, count - first);
    RETURN_IF_ERROR(read_recorded(*payload_, record, TraceSide::kOutput, index,
                                  first * element_bytes,
                                  std::span(raw).first(chunk * element_bytes)));
    if (is_words) {
      unlike += count_unlike(got.data + first * element_bytes, raw.data(), chunk * element_bytes);
      continue;
    }
    load_f32(dtype, raw.data(), expected.data(), chunk);
    load_f32(dtype, got.data + first * element_bytes, values.data(), chunk);
    distance.add(std::span(values).first(chunk), std::span(expected).first(chunk));
  }
  if (unlike > 0) return fmt::format("{} of {} words are others", unlike, count);
  return distance.judge(tolerance_);
}

Result<std::string> ReplayVerifier::check_int8_rows(const TraceRecord& record, std::size_t index,
                                                    TensorView got) const {
  const auto width = static_cast<std::size_t>(widened(got.desc).shape[1]);
  const auto row_bytes = static_cast<std::size_t>(got.desc.shape[1]);
  std::vector<std::byte> raw(row_bytes);
  std::vector<float> expected(width);
  std::vector<float> values(width);
  Distance distance;
  for (std::size_t at = 0; at < got.desc.bytes(); at += row_bytes) {
    RETURN_IF_ERROR(read_recorded(*payload_, record, TraceSide::kOutput, index, at, raw));
    load_int8_row(raw.data(), width, expected.data());
    load_int8_row(got.data + at, width, values.data());
    distance.add(values, expected);
  }
  return distance.judge(tolerance_);
}

Status check_can_verify(const TraceHeader& header, ReplayVerify verify) {
  if (verify == ReplayVerify::kNone) return {};
  const auto refuse = [&](const char* what) {
    return Status(StatusCode::kUsage,
                  "--verify {} needs a trace with {}: record it with tee_runner prefill --record "
                  "FILE --record-payload",
                  name_of(verify), what);
  };
  if (header.payload.empty()) return refuse("a payload, as the inputs must be the recorded ones");
  if (verify == ReplayVerify::kDigest && !header.digests) return refuse("digests");
  return {};
}

Status check_replay_model(const TraceHeader& header, const BackendInfo& server,
                          ReplayVerify verify) {
  if (!(header.dims == server.dims)) {
    return {StatusCode::kMismatch,
            "the server's model has another shape than the trace's: {} against {}",
            dims_text(server.dims), dims_text(header.dims)};
  }
  const bool known = !header.digest.empty() && !server.digest.empty();
  if (known && header.digest != server.digest) {
    const std::string text =
        fmt::format("the server's model is another than the trace's: digest {}, recorded {}",
                    server.digest, header.digest);
    if (verify != ReplayVerify::kNone) return {StatusCode::kMismatch, text};
    log_warning(text + "; the shapes are the same");
  }
  if (verify == ReplayVerify::kNone) return {};
  if (!known) log_warning("the trace does not say which model it is of: outputs may differ");
  if (header.dtype != server.dtype) {
    log_warning(
        fmt::format("the server computes in {}, the trace was recorded with {}: outputs may differ",
                    name_of(server.dtype), name_of(header.dtype)));
  }
  return {};
}

Status check_verified_all(const TraceHeader& header, const std::string& cut,
                          const VerifiedPart& part) {
  if (part.tensors == 0) {
    return {StatusCode::kMismatch, "nothing was verified: no output was there to be compared"};
  }
  if (cut.empty() && header.dropped == 0) return {};
  const std::string reason = cut.empty() ? std::string() : fmt::format(": {}", cut);
  if (header.records && header.dropped == 0 && part.ops >= *header.records) {
    return {StatusCode::kMismatch, "it is not certain that the whole trace was verified" + reason};
  }
  const std::string all = header.records
                              ? fmt::format("{}", add_saturating(*header.records, header.dropped))
                              : "an unknown number of";
  return {StatusCode::kMismatch, "only part of the trace could be verified, {} of {} ops{}",
          part.ops, all, reason};
}

}  // namespace airlock
