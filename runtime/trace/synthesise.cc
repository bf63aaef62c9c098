#include "runtime/trace/synthesise.h"

#include <span>

#include "base/check.h"

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

TraceRecord make_record(const OpSpec& spec, std::optional<std::uint16_t> layer,
                        const ModelDims& dims, const std::optional<PathPolicy>& policy) {
  const auto results = op_results(spec, dims);
  CHECK(results.ok());
  TraceRecord record;
  record.op = spec.op;
  record.layer = layer;
  record.weights = spec.weights;
  record.transpose = spec.transpose;
  record.inputs = traced(spec.inputs, policy);
  record.outputs = traced(*results, policy);
  return record;
}

std::vector<TraceRecord> synthesise_records(const ModelDims& dims, const PrefillShape& shape,
                                            const PathPolicy& policy, std::uint64_t runs) {
  const std::vector<PlannedOp> plan = plan_prefill(dims, shape);
  std::vector<TraceRecord> records;
  for (std::uint64_t run = 0; run < runs; ++run) {
    for (const PlannedOp& op : plan) {
      records.push_back(make_record(op.spec, op.layer, dims, policy));
      records.back().seq = records.size() - 1;
      records.back().run = run;
    }
  }
  return records;
}

}  // namespace airlock
