// What LlamaDriver does with each op of its plan.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/deadline.h"
#include "tee_runner/llama/driver_pass.h"
#include "tee_runner/llama/int8_kernels.h"
#include "tee_runner/llama/kernels.h"

namespace airlock {

namespace {

/// Books one call of a kernel while it lives.
class KernelTimer {
 public:
  KernelTimer(TeeStatsTable& stats, TeeKernel kernel)
      : stats_(stats[kernel]), start_ns_(now_ns()) {}
  ~KernelTimer() { merge(stats_, TeeKernelSnapshot{1, now_ns() - start_ns_}); }
  KernelTimer(const KernelTimer&) = delete;
  KernelTimer& operator=(const KernelTimer&) = delete;

 private:
  TeeKernelStats& stats_;
  std::uint64_t start_ns_;
};

Status finish(const PlannedOp& op, Pending& pending) {
  const Status status = pending.wait();
  // What failed a check is not told of further (docs/PRIVACY.md).
  if (status.code() == StatusCode::kMismatch) return status;
  return status.with_context(name_of(op.spec.op));
}

/// The queries of a tile, in a tensor whose rows begin at first_row.
HeadTile query_heads(const ModelDims& dims, const Tile& tile, std::int64_t first_row) {
  const std::int64_t group = dims.heads / dims.kv_heads;
  return {tile.first_group * group, tile.group_count * group, tile.first_row - first_row,
          tile.row_count};
}

/// The sequences' rows among those of a tile, counted from its first one.
std::vector<SequenceRows> part_of(std::span<const SequenceRows> sequences, const Tile& tile) {
  std::vector<SequenceRows> part;
  for (const SequenceRows& rows : sequences) {
    const std::int64_t first = std::max(rows.first_row, tile.first_row);
    const std::int64_t end =
        std::min(rows.first_row + rows.row_count, tile.first_row + tile.row_count);
    if (first < end) {
      part.push_back({first - tile.first_row, end - first, rows.cache,
                      rows.rows_before + first - rows.first_row});
    }
  }
  return part;
}

bool overlap(const Tile& a, const Tile& b) {
  return a.first_row < b.first_row + b.row_count && b.first_row < a.first_row + a.row_count;
}

}  // namespace

Status LlamaDriver::take_step(const PlannedOp& op, Pass& pass) {
  switch (op.step) {
    case Step::kEmbed:
      return embed(op, pass);
    case Step::kQkv:
      return ask_normalised(op, 2 * *op.layer, pass);
    case Step::kScores:
      return ask_for_scores(op, pass);
    case Step::kValues:
      return weigh_values(op, pass);
    case Step::kAttentionOut:
      return ask_attended(op, pass);
    case Step::kGateUp:
      return ask_normalised(op, 2 * *op.layer + 1, pass);
    case Step::kDown:
      return ask_down(op, pass);
    case Step::kLogits:
      return ask_for_logits(op, pass);
  }
  return {};
}

Status LlamaDriver::embed(const PlannedOp& op, Pass& pass) {
  ASSIGN_OR_RETURN(const PendingOp embedding, begin(op, pass));
  std::memcpy(embedding->input(0).data, pass.tokens.data(), pass.tokens.size_bytes());
  RETURN_IF_ERROR(embedding->submit());
  RETURN_IF_ERROR(finish(op, *embedding));
  widen_rows(pool_, embedding->result(0), hidden_.mutable_view());
  return {};
}

/// Norm of the rows' hidden states, to which all that is on its way for them has been added: in one
/// pass with the norm where that is one op of just these rows.
Status LlamaDriver::ask_normalised(const PlannedOp& op, std::int64_t norm, Pass& pass) {
  const auto concerns = [&op](const Sent& sent) { return overlap(sent.op->tile, op.tile); };
  PendingOp delta;
  while (delta == nullptr && std::ranges::any_of(pass.sent, concerns)) {
    const Tile& rows = pass.sent.front().op->tile;
    if (rows.first_row == op.tile.first_row && rows.row_count == op.tile.row_count) {
      ASSIGN_OR_RETURN(Sent added, take(pass.sent.front().op->step, rows, pass));
      delta = std::move(added.pending);
    } else {
      RETURN_IF_ERROR(land(pass));
    }
  }
  ASSIGN_OR_RETURN(PendingOp pending, begin(op, pass));
  {
    const KernelTimer timer(stats_, TeeKernel::kRmsNorm);
    const float* weight = norms_.as<float>().data() + norm * config_.dims.hidden;
    const std::int64_t first = op.tile.first_row;
    if (delta == nullptr) {
      rms_norm(pool_, hidden_, first, weight, config_.rms_norm_eps, pending->input(0));
    } else {
      add_and_normalise(pool_, delta->result(0), first, hidden_, weight, config_.rms_norm_eps,
                        pending->input(0));
    }
  }
  delta.reset();
  return send(op, std::move(pending), pass);
}

Status LlamaDriver::ask_attended(const PlannedOp& op, Pass& pass) {
  if (pass.shape.attention == Attention::kOffload) {
    ASSIGN_OR_RETURN(PendingOp pending, begin(op, pass));
    RETURN_IF_ERROR(take_attended(op, pass, pending->input(0)));
    return send(op, std::move(pending), pass);
  }
  ASSIGN_OR_RETURN(Sent qkv, take(Step::kQkv, op.tile, pass));
  ASSIGN_OR_RETURN(PendingOp pending, begin(op, pass));
  attend(op, *qkv.pending, pass, pending->input(0));
  qkv.pending.reset();
  return send(op, std::move(pending), pass);
}

Status LlamaDriver::ask_down(const PlannedOp& op, Pass& pass) {
  ASSIGN_OR_RETURN(Sent gate_up, take(Step::kGateUp, op.tile, pass));
  ASSIGN_OR_RETURN(PendingOp pending, begin(op, pass));
  {
    const KernelTimer timer(stats_, TeeKernel::kSilu);
    silu_multiply(pool_, gate_up.pending->result(0), gate_up.pending->result(1), pending->input(0));
  }
  gate_up.pending.reset();
  return send(op, std::move(pending), pass);
}

/// Leaves QK^T of one tile under way. `qkv` has the newest row tile last.
Status LlamaDriver::ask_for_scores(const PlannedOp& op, Pass& pass) {
  const bool is_first = pass.qkv.empty() || !overlap(pass.qkv.back().op->tile, op.tile);
  if (is_first) {
    ASSIGN_OR_RETURN(Sent qkv, take(Step::kQkv, op.tile, pass));
    pass.qkv.push_back(std::move(qkv));
  }
  const Sent& qkv = pass.qkv.back();
  const std::int64_t first_row = qkv.op->tile.first_row;
  ASSIGN_OR_RETURN(PendingOp scores, begin(op, pass));
  {
    const KernelTimer timer(stats_, TeeKernel::kRope);
    rotate_heads(pool_, rope_, qkv.pending->result(0),
                 query_heads(config_.dims, op.tile, first_row), pass.shape.position + first_row,
                 scores->input(0));
    if (is_first)
      pass.cache->store_keys(pool_, rope_, *op.layer, qkv.pending->result(1), first_row);
    pass.cache->copy_keys(pool_, *op.layer, op.tile.first_group, scores->input(1));
  }
  return send(op, std::move(scores), pass);
}

/// PV is prepared while QK^T is under way, so that the values move meanwhile; hence twice the time.
/// `qkv` has the oldest row tile first.
Status LlamaDriver::weigh_values(const PlannedOp& op, Pass& pass) {
  const ModelDims& dims = config_.dims;
  ASSIGN_OR_RETURN(PendingOp values, begin(op, pass, 2));
  const Tile rows = pass.qkv.front().op->tile;
  const bool is_last = op.tile.first_row + op.tile.row_count == rows.first_row + rows.row_count &&
                       op.tile.first_group + op.tile.group_count == dims.kv_heads;
  {
    const KernelTimer timer(stats_, TeeKernel::kAttention);
    if (op.tile.first_row == rows.first_row && op.tile.first_group == 0) {
      pass.cache->store_values(pool_, *op.layer, pass.qkv.front().pending->result(2),
                               rows.first_row);
    }
    pass.cache->copy_values(pool_, *op.layer, op.tile.first_group, values->input(1));
  }
  if (is_last) pass.qkv.pop_front();
  ASSIGN_OR_RETURN(Sent scores, take(Step::kScores, op.tile, pass));
  {
    const KernelTimer timer(stats_, TeeKernel::kSoftmax);
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dims.head_dim)));
    causal_softmax(pool_, scores.pending->result(0), pass.shape.position + op.tile.first_row, scale,
                   values->input(0));
  }
  scores.pending.reset();
  RETURN_IF_ERROR(send(op, std::move(values), pass));
  // Where one row tile takes several products they are large: not two at once.
  const bool is_whole = op.tile.row_count == rows.row_count && op.tile.group_count == dims.kv_heads;
  while (!is_whole && !pass.sent.empty()) RETURN_IF_ERROR(land(pass));
  return {};
}

/// Offloaded attention's output as o_proj takes it: from PV itself where that has just these rows.
Status LlamaDriver::take_attended(const PlannedOp& op, Pass& pass, MutableTensorView out) {
  const ModelDims& dims = config_.dims;
  const auto concerns = [&op](const Sent& sent) { return overlap(sent.op->tile, op.tile); };
  const auto values = std::ranges::find_if(pass.sent, concerns);
  if (values != pass.sent.end() && values->op->tile.row_count == op.tile.row_count &&
      values->op->tile.group_count == dims.kv_heads) {
    ASSIGN_OR_RETURN(const Sent whole, take(Step::kValues, op.tile, pass));
    const KernelTimer timer(stats_, TeeKernel::kAttention);
    merge_heads(pool_, whole.pending->result(0), {0, dims.heads, 0, op.tile.row_count}, out);
    return {};
  }
  while (std::ranges::any_of(pass.sent, concerns)) RETURN_IF_ERROR(land(pass));
  const KernelTimer timer(stats_, TeeKernel::kAttention);
  const std::size_t row_bytes =
      pass.attended.desc().bytes() / static_cast<std::size_t>(pass.shape.tokens);
  std::memcpy(out.data,
              pass.attended.view().data + static_cast<std::size_t>(op.tile.first_row) * row_bytes,
              out.desc.bytes());
  return {};
}

/// Attention in this process, of the op's rows: their keys and values are stored first.
void LlamaDriver::attend(const PlannedOp& op, const Pending& qkv, Pass& pass,
                         MutableTensorView out) {
  const KernelTimer timer(stats_, TeeKernel::kAttention);
  const FloatRows q(pool_, qkv.result(0));
  const FloatRows k(pool_, qkv.result(1));
  const FloatRows v(pool_, qkv.result(2));
  FloatRowsOut attended(out);
  if (pass.cache == nullptr) {
    cached_attention(pool_, rope_, *op.layer, q.view(), k.view(), v.view(),
                     part_of(pass.sequences, op.tile), attended.view());
  } else {
    const std::int64_t first = op.tile.first_row;
    pass.cache->store_keys(pool_, rope_, *op.layer, k.view(), first);
    pass.cache->store_values(pool_, *op.layer, v.view(), first);
    blocked_attention(pool_, rope_, q.view(), pass.shape.position + first,
                      pass.cache->keys(*op.layer), pass.cache->values(*op.layer), attended.view());
  }
  attended.finish(pool_);
}

/// Waits for the oldest op under way. What is added to the hidden states or gathered from PV is;
/// the rest lies there until somebody takes it.
Status LlamaDriver::land(Pass& pass) {
  Sent oldest = std::move(pass.sent.front());
  pass.sent.pop_front();
  const PlannedOp& op = *oldest.op;
  RETURN_IF_ERROR(finish(op, *oldest.pending));
  if (op.step == Step::kAttentionOut || op.step == Step::kDown) {
    const KernelTimer timer(stats_, TeeKernel::kResidual);
    add_residual(pool_, oldest.pending->result(0), op.tile.first_row, hidden_);
  } else if (op.step == Step::kValues) {
    const KernelTimer timer(stats_, TeeKernel::kAttention);
    const ModelDims& dims = config_.dims;
    const TensorDesc all{options_.wire, {pass.shape.tokens, dims.heads * dims.head_dim}};
    if (!(pass.attended.desc() == all)) pass.attended = Tensor(all);
    merge_heads(pool_, oldest.pending->result(0), query_heads(dims, op.tile, 0),
                pass.attended.mutable_view());
  } else {
    pass.landed.push_back(std::move(oldest));
  }
  return {};
}

/// The finished op of a step whose rows begin with the tile's. Ops finish in the order in which
/// they were sent.
Result<LlamaDriver::Sent> LlamaDriver::take(Step step, const Tile& rows, Pass& pass) {
  const auto is_it = [&](const Sent& sent) {
    return sent.op->step == step && sent.op->tile.first_row == rows.first_row &&
           sent.op->tile.first_group == rows.first_group;
  };
  while (std::ranges::none_of(pass.landed, is_it)) {
    CHECK(!pass.sent.empty());
    if (is_it(pass.sent.front())) {
      Sent sent = std::move(pass.sent.front());
      pass.sent.pop_front();
      RETURN_IF_ERROR(finish(*sent.op, *sent.pending));
      return sent;
    }
    RETURN_IF_ERROR(land(pass));
  }
  const auto found = std::ranges::find_if(pass.landed, is_it);
  Sent sent = std::move(*found);
  pass.landed.erase(found);
  return sent;
}

/// An op's place, where there are not too many under way. It may have to wait for each of those.
Result<LlamaDriver::PendingOp> LlamaDriver::begin(const PlannedOp& op, Pass& pass, int timeouts) {
  while (pass.sent.size() >= kTilesUnderWay) RETURN_IF_ERROR(land(pass));
  if (options_.pulse != nullptr) options_.pulse->beat();
  const auto waits = timeouts + static_cast<int>(pass.sent.size());
  return backend_.prepare(op.spec, Deadline::after(waits * options_.op_timeout));
}

Status LlamaDriver::send(const PlannedOp& op, PendingOp pending, Pass& pass) {
  RETURN_IF_ERROR(pending->submit());
  pass.sent.push_back({&op, std::move(pending)});
  return {};
}

/// lm_head of the rows that are wanted.
Status LlamaDriver::ask_for_logits(const PlannedOp& op, Pass& pass) {
  while (!pass.sent.empty()) RETURN_IF_ERROR(land(pass));
  ASSIGN_OR_RETURN(const PendingOp head, begin(op, pass));
  const auto width = static_cast<std::size_t>(config_.dims.hidden);
  const float* const weight =
      norms_.as<float>().data() + static_cast<std::size_t>(2 * config_.dims.layers) * width;
  {
    const KernelTimer timer(stats_, TeeKernel::kRmsNorm);
    if (pass.chosen.empty()) {
      rms_norm(pool_, hidden_, op.tile.first_row, weight, config_.rms_norm_eps, head->input(0));
    } else {
      Tensor rows({DType::kF32, {op.tile.row_count, config_.dims.hidden}});
      for (std::size_t i = 0; i < static_cast<std::size_t>(op.tile.row_count); ++i) {
        const auto row =
            static_cast<std::size_t>(pass.chosen[static_cast<std::size_t>(op.tile.first_row) + i]);
        std::memcpy(rows.as<float>().data() + i * width, hidden_.as<float>().data() + row * width,
                    width * sizeof(float));
      }
      rms_norm(pool_, rows, 0, weight, config_.rms_norm_eps, head->input(0));
    }
  }
  RETURN_IF_ERROR(head->submit());
  RETURN_IF_ERROR(finish(op, *head));
  const std::int64_t first_row =
      pass.chosen.empty() ? pass.shape.tokens - logits_rows(pass.shape) : 0;
  const auto row = static_cast<std::size_t>(config_.dims.vocab);
  const auto logits =
      pass.logits.subspan(static_cast<std::size_t>(op.tile.first_row - first_row) * row,
                          static_cast<std::size_t>(op.tile.row_count) * row);
  std::memcpy(logits.data(), head->result(0).data, logits.size_bytes());
  return {};
}

}  // namespace airlock
