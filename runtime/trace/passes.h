#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/enum.h"
#include "runtime/stats/counters.h"
#include "runtime/stats/histogram.h"
#include "runtime/trace/busy_time.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// What a pass of the model is for. A run's passes are over its prompt until they had as many rows
/// as the trace has tokens; each one behind them is a step of an answer.
enum class PassKind : std::uint8_t { kPrefill, kStep };
constexpr std::string_view name_of(PassKind kind) {
  switch (kind) {
    case PassKind::kPrefill:
      return "prefill";
    case PassKind::kStep:
      return "step";
  }
  return {};
}

/// One pass, or several added up. Sums stop at 2^64 - 1. A plain value.
struct PassSums {
  std::uint64_t count = 0;
  // Those without an lm_head at their end: pieces of a prompt, and what was cut off.
  std::uint64_t without_logits = 0;
  // Tokens that went in.
  std::uint64_t rows = 0;
  std::uint64_t ops = 0;
  std::uint64_t input_bytes = 0;
  std::uint64_t output_bytes = 0;
  // From the first op's submit to the last reply: the choice of tokens lies between two passes.
  std::uint64_t wall_ns = 0;
  // Of that, no op was under way; of `between_known` of them, where between_ops_ns()
  // can tell.
  std::uint64_t between_ns = 0;
  std::uint64_t between_known = 0;
  // The ops' parts.
  std::uint64_t tee_ns = 0;
  std::uint64_t wire_ns = 0;
  std::uint64_t queue_ns = 0;
  std::uint64_t server_ns = 0;
  bool operator==(const PassSums&) const = default;
  static void visit(auto&& each, auto&... sums) {
    each("count", sums.count...);
    each("without_logits", sums.without_logits...);
    each("rows", sums.rows...);
    each("ops", sums.ops...);
    each("input_bytes", sums.input_bytes...);
    each("output_bytes", sums.output_bytes...);
    each("wall_ns", sums.wall_ns...);
    each("between_ns", sums.between_ns...);
    each("between_known", sums.between_known...);
    each("tee_ns", sums.tee_ns...);
    each("wire_ns", sums.wire_ns...);
    each("queue_ns", sums.queue_ns...);
    each("server_ns", sums.server_ns...);
  }
};

struct TracePass {
  PassKind kind = PassKind::kPrefill;
  PassSums sums;  // of this pass alone
};

/// Tells the passes of a trace apart, record by record: each begins with an embedding, or, where a
/// private mode lets none cross, with the first layer's q, k and v. What comes before the first one
/// belongs to none. A trace that lacks ops, which its header or its gaps say,
/// may lack passes. One thread.
class PassWalker {
 public:
  explicit PassWalker(const TraceHeader& header)
      : source_(header.source), prompt_(static_cast<std::uint64_t>(header.tokens)) {}

  /// The pass that is over because `record` begins another.
  std::optional<TracePass> add(const TraceRecord& record);
  /// The trace is over: its last pass, once.
  std::optional<TracePass> end();

 private:
  TraceSource source_;
  std::uint64_t prompt_;
  std::uint64_t run_ = 0;
  std::uint64_t rows_of_run_ = 0;  // of its passes that began
  bool has_embeddings_ = false;
  std::optional<TracePass> pass_;
  Op last_op_ = Op::kEmbedding;
  BusyTime busy_;
};

/// The passes of one kind. A plain value.
struct PassTotals : PassSums {
  // How long each took; a step without logits, which was cut off, is not among them.
  HistogramSnapshot each_ns;
  void add(const TracePass& pass);
};
using PassTable = PerValue<PassKind, PassTotals>;

}  // namespace airlock
