#include "runtime/replay/material.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <random>
#include <system_error>

#include "base/convert.h"
#include "base/file.h"
#include "base/int8_rows.h"
#include "base/mix.h"

namespace airlock {
namespace {

// A prime, so that rows of any power of two differ from each other.
constexpr std::size_t kCycleLength = 65521;

class SeededInputs {
 public:
  SeededInputs(std::uint64_t seed, std::int64_t vocab) : seed_(seed) {
    std::mt19937_64 random(seed);
    std::vector<float> floats(kCycleLength);
    std::vector<std::int32_t> ids(kCycleLength);
    std::vector<std::uint32_t> words(kCycleLength);
    for (std::size_t i = 0; i < kCycleLength; ++i) {
      const std::uint64_t bits = random();
      floats[i] = static_cast<float>(static_cast<std::int64_t>(bits >> 40) - (1 << 23)) /
                  static_cast<float>(1 << 23);
      words[i] = static_cast<std::uint32_t>(bits);
      ids[i] = static_cast<std::int32_t>((bits & 0xffffffffU) % static_cast<std::uint64_t>(vocab));
    }
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      std::vector<std::byte>& cycle = cycle_of(dtype);
      cycle.resize(kCycleLength * dtype_bytes(dtype));
      store_f32(dtype, floats.data(), cycle.data(), kCycleLength);
    }
    const std::span<const std::byte> id_bytes = std::as_bytes(std::span(ids));
    cycle_of(DType::kI32).assign(id_bytes.begin(), id_bytes.end());
    const std::span<const std::byte> word_bytes = std::as_bytes(std::span(words));
    cycle_of(DType::kU32).assign(word_bytes.begin(), word_bytes.end());
  }

  Status operator()(const TraceRecord& record, std::size_t index, MutableTensorView place) const {
    if (place.desc.dtype == DType::kI8) return fill_int8_rows(record, index, place);
    const std::vector<std::byte>& cycle = cycles_[static_cast<std::size_t>(place.desc.dtype)];
    if (cycle.empty()) {
      return {StatusCode::kInternal, "no op has inputs of {}", name_of(place.desc.dtype)};
    }
    const std::uint64_t first = mix(mix(seed_ + record.seq) + index) % std::uint64_t{kCycleLength};
    std::size_t from = static_cast<std::size_t>(first) * dtype_bytes(place.desc.dtype);
    for (std::span<std::byte> left = place.bytes(); !left.empty(); from = 0) {
      const std::size_t count = std::min(left.size(), cycle.size() - from);
      std::memcpy(left.data(), cycle.data() + from, count);
      left = left.subspan(count);
    }
    return {};
  }

 private:
  /// Of numbers as the float types have.
  Status fill_int8_rows(const TraceRecord& record, std::size_t index,
                        MutableTensorView place) const {
    Tensor values(widened(place.desc));
    RETURN_IF_ERROR((*this)(record, index, values.mutable_view()));
    store_int8_rows(values.view(), place);
    return {};
  }
  std::vector<std::byte>& cycle_of(DType dtype) { return cycles_[static_cast<std::size_t>(dtype)]; }

  std::uint64_t seed_;
  std::array<std::vector<std::byte>, kCountOf<DType> + 1> cycles_;
};

}  // namespace

Result<const TraceRecord*> RecordSource::next() {
  if (!reader_) return next_ == kept_.size() ? nullptr : &kept_[next_++];
  ASSIGN_OR_RETURN(record_, reader_->next());
  return record_ ? &*record_ : nullptr;
}

Status RecordSource::rewind() {
  next_ = 0;
  return reader_ ? reader_->rewind() : Status();
}

Result<std::unique_ptr<ReplayTrace>> ReplayTrace::open(const std::string& path,
                                                       std::size_t most_kept) {
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(path));
  auto trace = std::make_unique<ReplayTrace>();
  trace->path_ = path;
  trace->header_ = reader.header();
  for (;;) {
    ASSIGN_OR_RETURN(std::optional<TraceRecord> record, reader.next());
    if (!record) {
      trace->kept_ = true;
      trace->cut_ = reader.cut();
      break;
    }
    if (trace->records_.size() == most_kept) {
      trace->records_ = {};
      break;
    }
    constexpr std::array kByPlanes = {Int8Weights::kNone, Int8Weights::kW8, Int8Weights::kW16};
    static_assert(kByPlanes.size() == kMaxInt8Planes + 1);
    trace->int8_weights_ = std::max(trace->int8_weights_, kByPlanes[record->planes]);
    trace->records_.push_back(std::move(*record));
  }
  return trace;
}

Result<std::unique_ptr<RecordSource>> ReplayTrace::make_source() const {
  if (kept_) return std::make_unique<RecordSource>(records_, cut_);
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(path_));
  if (!(reader.header() == header_)) {
    return Status(StatusCode::kInvalidInput, "{} changed while it was read", path_);
  }
  return std::make_unique<RecordSource>(std::move(reader));
}

std::optional<PathPolicy> recorded_policy(const TraceHeader& header) {
  if (header.backend != "remote") return std::nullopt;
  return PathPolicy{header.path_limit_bytes > 0 && header.ring_slots > 0, header.path_limit_bytes,
                    header.ring_slots};
}

Status read_recorded(const SafetensorsFile& payload, const TraceRecord& record, TraceSide side,
                     std::size_t index, std::uint64_t offset, std::span<std::byte> out) {
  const auto& tensors = side == TraceSide::kInput ? record.inputs : record.outputs;
  const TensorDesc& desc = tensors[index].desc;
  const std::string name = payload_tensor_name(record.seq, side, index);
  const auto refuse = [&](std::string_view what) {
    return Status(StatusCode::kInvalidInput, "{}: tensor '{}' {}", payload.file().path(), name,
                  what);
  };
  const SafetensorsEntry* entry = payload.find(name);
  if (entry == nullptr) return refuse("is missing");
  if (entry->dtype_text != safetensors_dtype(desc.dtype) ||
      !std::ranges::equal(entry->shape, desc.shape.extents()) || entry->bytes != desc.bytes()) {
    return refuse(fmt::format("is not {} {}, as the trace has it", name_of(desc.dtype),
                              desc.shape.to_string()));
  }
  return payload.read(*entry, offset, out);
}

std::string payload_path(const std::string& trace_path, const TraceHeader& header) {
  if (header.payload.empty()) return {};
  const auto beside = [&](const std::string& path) {
    return path.substr(0, path.rfind('/') + 1) + header.payload;  // npos + 1 is 0
  };
  const std::string path = beside(trace_path);
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) return path;
  const auto target = follow_links(trace_path);
  return target.ok() ? beside(*target) : path;
}

ReplayInputs seeded_inputs(std::uint64_t seed, std::int64_t vocab) {
  return SeededInputs(seed, vocab);
}

ReplayInputs recorded_inputs(const SafetensorsFile& payload) {
  return [&payload](const TraceRecord& record, std::size_t index, MutableTensorView place) {
    return read_recorded(payload, record, TraceSide::kInput, index, 0, place.bytes());
  };
}

}  // namespace airlock
