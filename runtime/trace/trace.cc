#include "runtime/trace/trace.h"

#include <fmt/chrono.h>
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

std::vector<TraceTensor> traced(std::span<const TensorDesc> descs,
                                const std::optional<PathPolicy>& policy) {
  const MessagePlan plan = plan_message(policy.value_or(PathPolicy()), sizes_of(descs)).value();
  std::vector<TraceTensor> tensors;
  for (std::size_t i = 0; i < descs.size(); ++i) {
    tensors.push_back({descs[i], policy ? std::optional(plan.planned[i].path) : std::nullopt, {}});
  }
  return tensors;
}

}  // namespace

OpSpec TraceRecord::spec() const {
  OpSpec spec;
  spec.op = op;
  spec.weights = weights;
  spec.transpose = transpose;
  spec.planes = planes;
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

TraceRecord make_record(const OpSpec& spec, std::span<const TensorDesc> results,
                        const std::optional<PathPolicy>& policy) {
  TraceRecord record;
  record.op = spec.op;
  record.weights = spec.weights;
  record.transpose = spec.transpose;
  record.planes = spec.planes;
  record.inputs = traced(spec.inputs, policy);
  record.outputs = traced(results, policy);
  return record;
}

TraceRecord make_record(const OpSpec& spec, std::optional<std::uint16_t> layer,
                        const ModelDims& dims, const std::optional<PathPolicy>& policy) {
  TraceRecord record = make_record(spec, op_results(spec, dims).value(), policy);
  record.layer = layer;
  return record;
}

TraceRecord synthesise_record(std::span<const PlannedOp> plan, std::uint64_t seq,
                              const ModelDims& dims, const PathPolicy& policy) {
  const PlannedOp& op = plan[seq % plan.size()];
  TraceRecord record = make_record(op.spec, op.layer, dims, policy);
  record.seq = seq;
  record.run = seq / plan.size();
  return record;
}

std::string build_name() { return fmt::format("airlock {}", kVersion); }

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

}  // namespace airlock
