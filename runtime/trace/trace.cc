#include "runtime/trace/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "base/version.h"

namespace airlock {
namespace {

/// Of all tensors, or of those that went by `path`.
std::uint64_t sum_bytes(const std::vector<TraceTensor>& tensors,
                        std::optional<Path> path = std::nullopt) {
  std::uint64_t bytes = 0;
  for (const TraceTensor& tensor : tensors) {
    if (!path || tensor.path == path) bytes += tensor.desc.bytes();
  }
  return bytes;
}

}  // namespace

OpSpec TraceRecord::spec() const {
  OpSpec spec;
  spec.op = op;
  spec.weights = weights;
  spec.transpose = transpose;
  spec.result_dtype = outputs.empty() ? DType::kF32 : outputs[0].desc.dtype;
  for (const TraceTensor& input : inputs) spec.inputs.push_back(input.desc);
  return spec;
}

std::uint64_t TraceRecord::input_bytes() const { return sum_bytes(inputs); }

std::uint64_t TraceRecord::output_bytes() const { return sum_bytes(outputs); }

std::uint64_t TraceRecord::bytes_by(Path path) const {
  return sum_bytes(inputs, path) + sum_bytes(outputs, path);
}

std::optional<Path> TraceRecord::slowest_path() const {
  std::optional<Path> slowest;  // less than any path
  for (const auto* tensors : {&inputs, &outputs}) {
    for (const TraceTensor& tensor : *tensors) slowest = std::max(slowest, tensor.path);
  }
  return slowest;
}

std::string payload_tensor_name(std::uint64_t seq, TraceSide side, std::size_t index) {
  return fmt::format("{:06}.{}.{}", seq, side == TraceSide::kInput ? "in" : "out", index);
}

std::string build_name() { return fmt::format("airlock {}", kVersion); }

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

}  // namespace airlock
