#pragma once

#include <cstdint>
#include <string_view>

#include "proto/op.h"
#include "runtime/op_times.h"
#include "runtime/stats/counters.h"
#include "runtime/stats/histogram.h"

namespace airlock {

/// The calls of one op and where their time went. At the runner as runtime/op_times.h says; at the
/// server the total is from the receipt of the whole request to the reply's send, tee_ns is 0,
/// queue_ns (from that receipt to the start of the computation) and server_ns are measured, and
/// wire_ns is the rest. The parts add up on both sides.
template <typename Cell>
struct OpStatsOf {
  Cell calls{};
  OpTimesOf<Cell> times{};
  bool operator==(const OpStatsOf&) const = default;
  static void visit(auto&& each, auto&... stats) {
    each("calls", stats.calls...);
    visit_times(each, stats.times...);
    each("device", stats.times.device...);
  }
};

using OpStats = OpStatsOf<Counter>;
using OpSnapshot = OpStatsOf<std::uint64_t>;
using OpStatsTable = PerValue<Op, OpStats>;
using OpSnapshotTable = PerValue<Op, OpSnapshot>;

/// How long each call of each op took.
using OpHistograms = PerValue<Op, Histogram>;
using OpHistogramSnapshots = PerValue<Op, HistogramSnapshot>;

enum class TeeKernel : std::uint8_t { kRmsNorm, kRope, kSoftmax, kSilu, kResidual, kAttention };

constexpr std::string_view name_of(TeeKernel kernel) {
  switch (kernel) {
    case TeeKernel::kRmsNorm:
      return "rmsnorm";
    case TeeKernel::kRope:
      return "rope";
    case TeeKernel::kSoftmax:
      return "softmax";
    case TeeKernel::kSilu:
      return "silu";
    case TeeKernel::kResidual:
      return "residual";
    case TeeKernel::kAttention:
      return "attention";
  }
  return {};
}

template <typename Cell>
struct TeeKernelStatsOf {
  Cell calls{};
  Cell total_ns{};
  bool operator==(const TeeKernelStatsOf&) const = default;
  static void visit(auto&& each, auto&... stats) {
    each("calls", stats.calls...);
    each("total_ns", stats.total_ns...);
  }
};

using TeeKernelStats = TeeKernelStatsOf<Counter>;
using TeeKernelSnapshot = TeeKernelStatsOf<std::uint64_t>;
using TeeStatsTable = PerValue<TeeKernel, TeeKernelStats>;
using TeeSnapshotTable = PerValue<TeeKernel, TeeKernelSnapshot>;

}  // namespace airlock
