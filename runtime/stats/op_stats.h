#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "proto/op.h"
#include "runtime/op_times.h"
#include "runtime/stats/histogram.h"

namespace airlock {

/// Of the server's computation on a device, by the device's own clock. Parts of ops that overlap
/// count in each op. Zero on a CPU and at the runner.
struct DeviceStats {
  std::atomic<std::uint64_t> copy_in_ns{0};
  std::atomic<std::uint64_t> compute_ns{0};
  std::atomic<std::uint64_t> copy_out_ns{0};
};

/// The OpTimes of one op's calls, added up. Relaxed atomics: one thread adds, any thread reads.
///
/// At the runner OpTimes says what each part holds; the server's words are bounded, so that total =
/// tee + wire + queue + server. At the server total is from receipt of the whole request to the
/// reply's send, tee is 0, queue is from receipt to the start of the computation, and wire is the
/// rest; they add up there too.
struct OpStats {
  std::atomic<std::uint64_t> calls{0};
  std::atomic<std::uint64_t> total_ns{0};
  std::atomic<std::uint64_t> tee_ns{0};
  std::atomic<std::uint64_t> wire_ns{0};
  std::atomic<std::uint64_t> queue_ns{0};
  std::atomic<std::uint64_t> server_ns{0};
  DeviceStats device;
  /// One more call, whose parts add up.
  void book(const OpTimes& times);
};

/// A DeviceStats at one moment.
struct DeviceSnapshot {
  std::uint64_t copy_in_ns = 0;
  std::uint64_t compute_ns = 0;
  std::uint64_t copy_out_ns = 0;
  void merge(const DeviceSnapshot& other);  // saturates
  bool operator==(const DeviceSnapshot&) const = default;
};

/// An OpStats at one moment: a plain value, to be kept and merged.
struct OpSnapshot {
  std::uint64_t calls = 0;
  std::uint64_t total_ns = 0;
  std::uint64_t tee_ns = 0;
  std::uint64_t wire_ns = 0;
  std::uint64_t queue_ns = 0;
  std::uint64_t server_ns = 0;
  DeviceSnapshot device = {};
  void merge(const OpSnapshot& other);  // saturates
  bool operator==(const OpSnapshot&) const = default;
};

struct OpSnapshotTable {
  std::array<OpSnapshot, kCountOf<Op>> ops;
  OpSnapshot& of(Op op) { return ops[static_cast<std::size_t>(op) - 1]; }
  const OpSnapshot& of(Op op) const { return ops[static_cast<std::size_t>(op) - 1]; }
  void merge(const OpSnapshotTable& other);
  bool operator==(const OpSnapshotTable&) const = default;
};

struct OpStatsTable {
  std::array<OpStats, kCountOf<Op>> ops;
  OpStats& of(Op op) { return ops[static_cast<std::size_t>(op) - 1]; }
  const OpStats& of(Op op) const { return ops[static_cast<std::size_t>(op) - 1]; }
  OpSnapshotTable snapshot() const;
  /// Adds what another table counted.
  void merge(const OpSnapshotTable& other);
};

/// A histogram for each op: how long each of its calls took.
using OpHistograms = std::array<Histogram, kCountOf<Op>>;
using OpHistogramSnapshots = std::array<HistogramSnapshot, kCountOf<Op>>;
OpHistogramSnapshots snapshot_of(const OpHistograms& histograms);

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

struct TeeKernelStats {
  std::atomic<std::uint64_t> calls{0};
  std::atomic<std::uint64_t> total_ns{0};
};
using TeeStatsTable = std::array<TeeKernelStats, kCountOf<TeeKernel>>;

struct TeeKernelSnapshot {
  std::uint64_t calls = 0;
  std::uint64_t total_ns = 0;
  bool operator==(const TeeKernelSnapshot&) const = default;
};
using TeeSnapshotTable = std::array<TeeKernelSnapshot, kCountOf<TeeKernel>>;
TeeSnapshotTable tee_snapshot(const TeeStatsTable& table);

}  // namespace airlock
