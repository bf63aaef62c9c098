#include "runtime/trace/synthesise.h"

namespace airlock {
namespace {

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

TraceRecord make_record(const OpSpec& spec, std::span<const TensorDesc> results,
                        const std::optional<PathPolicy>& policy) {
  TraceRecord record;
  record.op = spec.op;
  record.weights = spec.weights;
  record.transpose = spec.transpose;
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

}  // namespace airlock
