#pragma once

#include <cstdint>

#include "proto/path.h"
#include "runtime/stats/counters.h"
#include "runtime/stats/histogram.h"

namespace airlock {

/// One direction of one path. docs/STATS.md defines each counter of these structs.
template <typename Cell>
struct DirectionStatsOf {
  // Requests or replies whose header took this path.
  Cell messages{};
  // Tensors that took this path, and their payload bytes.
  Cell tensors{};
  Cell bytes{};
  bool operator==(const DirectionStatsOf&) const = default;
  static void visit(auto&& each, auto&... stats) {
    each("messages", stats.messages...);
    each("tensors", stats.tensors...);
    each("bytes", stats.bytes...);
  }
};

template <typename Cell>
struct PathStatsOf {
  // At commit.
  DirectionStatsOf<Cell> sent{};
  // After validation.
  DirectionStatsOf<Cell> received{};
  Cell errors{};
  // prepare() found no free slot at once (ring).
  Cell slot_waits{};
  // Tensors that the pool had no room for, sent and received; they took another path (pool).
  Cell fallbacks{};
  // Waits that ended while spinning.
  Cell spins{};
  // Times that a wait went to sleep.
  Cell parks{};
  // The runner's: an op's total_ns less what the server reports.
  HistogramOf<Cell> latency_ns{};
  bool operator==(const PathStatsOf&) const = default;
  static void visit(auto&& each, auto&... stats) {
    each("sent", stats.sent...);
    each("received", stats.received...);
    each("errors", stats.errors...);
    each("slot_waits", stats.slot_waits...);
    each("fallbacks", stats.fallbacks...);
    each("spins", stats.spins...);
    each("parks", stats.parks...);
    each("latency_ns", stats.latency_ns...);
  }
};

using DirectionStats = DirectionStatsOf<Counter>;
using DirectionSnapshot = DirectionStatsOf<std::uint64_t>;
using PathStats = PathStatsOf<Counter>;
using PathSnapshot = PathStatsOf<std::uint64_t>;

/// What one end of one channel counted. Outlives its channel.
using TransportSnapshot = PerValue<Path, PathSnapshot>;

/// What decides the paths of a session's tensors (PathPolicy).
struct AgreedLimits {
  std::uint64_t path_limit = 0;  // 0: no ring
  std::uint64_t inline_bytes = 0;
  bool operator==(const AgreedLimits&) const = default;
};

/// One end of one channel.
struct TransportStats : PerValue<Path, PathStats> {
  /// Books one whole message: its header and each tensor on its own path.
  void book_sent(const MessagePlan& plan) { book(&PathStats::sent, plan); }
  void book_received(const MessagePlan& plan) { book(&PathStats::received, plan); }

 private:
  void book(DirectionStats PathStats::*direction, const MessagePlan& plan) {
    merge(((*this)[plan.header_path].*direction).messages, 1);
    if (plan.fallbacks > 0) merge((*this)[Path::kPool].fallbacks, plan.fallbacks);
    for (const MessagePlan::Tensor& tensor : plan.tensors()) {
      DirectionStats& counts = (*this)[tensor.path].*direction;
      merge(counts.tensors, 1);
      merge(counts.bytes, tensor.bytes);
    }
  }
};

}  // namespace airlock
