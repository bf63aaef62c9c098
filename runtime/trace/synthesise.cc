#include "runtime/trace/synthesise.h"

#include <span>

#include "base/check.h"

namespace airlock {
namespace {

std::vector<TraceTensor> traced(std::span<const TensorDesc> descs,
                                const std::optional<PathPolicy>& policy) {
  std::vector<std::size_t> sizes;
  for (const TensorDesc& desc : descs) sizes.push_back(desc.bytes());
  const std::vector<Path> paths = policy ? choose_paths(*policy, sizes) : std::vector<Path>();
  std::vector<TraceTensor> tensors;
  for (std::size_t i = 0; i < descs.size(); ++i) {
    tensors.push_back({descs[i], policy ? std::optional(paths[i]) : std::nullopt, {}});
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

TraceRecord synthesise_record(std::span<const PlannedOp> plan, std::uint64_t seq,
                              const ModelDims& dims, const PathPolicy& policy) {
  const PlannedOp& op = plan[seq % plan.size()];
  TraceRecord record = make_record(op.spec, op.layer, dims, policy);
  record.seq = seq;
  record.run = seq / plan.size();
  return record;
}

}  // namespace airlock
