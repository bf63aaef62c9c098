#include "runtime/trace/passes.h"

#include <utility>

namespace airlock {

std::optional<TracePass> PassWalker::add(const TraceRecord& record) {
  std::optional<TracePass> over;
  // In a private mode no embedding crosses: a pass begins with the first layer's q, k and v.
  const bool is_first_linear = record.op == Op::kIntLinear && !record.weights.empty() &&
                               record.weights[0] == WeightId{WeightKind::kQ, 0};
  has_embeddings_ = has_embeddings_ || record.op == Op::kEmbedding;
  if (record.op == Op::kEmbedding || (is_first_linear && !has_embeddings_)) {
    over = end();
    if (record.run != run_) rows_of_run_ = 0;
    run_ = record.run;
    TracePass& begun = pass_.emplace();
    begun.kind = rows_of_run_ < prompt_ ? PassKind::kPrefill : PassKind::kStep;
    begun.sums.count = 1;
    // Token ids or activations, one or as many a row.
    if (!record.inputs.empty())
      merge(begun.sums.rows, static_cast<std::uint64_t>(record.inputs[0].desc.shape[0]));
    merge(rows_of_run_, begun.sums.rows);
    busy_ = BusyTime();
  }
  if (!pass_) return over;
  PassSums& sums = pass_->sums;
  ++sums.ops;
  merge(sums.input_bytes, record.input_bytes());
  merge(sums.output_bytes, record.output_bytes());
  merge(sums.tee_ns, record.times.tee_ns);
  merge(sums.wire_ns, record.times.wire_ns);
  merge(sums.queue_ns, record.times.queue_ns);
  merge(sums.server_ns, record.times.server_ns);
  busy_.add(record.start_ns, record.end_ns());
  const bool is_int_head = record.op == Op::kIntLinear && record.weights.empty();
  last_op_ = is_int_head ? Op::kLmHead : record.op;
  return over;
}

std::optional<TracePass> PassWalker::end() {
  if (!pass_) return std::nullopt;
  PassSums& sums = pass_->sums;
  sums.without_logits = last_op_ == Op::kLmHead ? 0 : 1;
  sums.wall_ns = busy_.wall_ns();
  if (const auto between = between_ops_ns(source_, busy_, std::nullopt)) {
    sums.between_ns = *between;
    sums.between_known = 1;
  }
  return std::exchange(pass_, std::nullopt);
}

void PassTotals::add(const TracePass& pass) {
  merge<PassSums>(*this, pass.sums);
  if (pass.kind == PassKind::kPrefill || pass.sums.without_logits == 0)
    each_ns.record(pass.sums.wall_ns);
}

}  // namespace airlock
