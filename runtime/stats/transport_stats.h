#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "proto/path.h"
#include "runtime/stats/histogram.h"

namespace airlock {

/// Counters of one direction of one path. Relaxed atomics: one thread adds, any thread reads; they
/// only grow.
struct DirectionStats {
  std::atomic<std::uint64_t> messages{0};  // requests or replies whose header took this path
  std::atomic<std::uint64_t> tensors{0};   // tensors that took this path
  std::atomic<std::uint64_t> bytes{0};     // their payload bytes
};

struct PathStats {
  DirectionStats sent;      // at commit
  DirectionStats received;  // after validation
  std::atomic<std::uint64_t> errors{0};
  std::atomic<std::uint64_t> slot_waits{0};  // prepare() found no free slot at once (ring)
  std::atomic<std::uint64_t> spins{0};       // waits that ended while spinning
  std::atomic<std::uint64_t> parks{0};       // times a wait went to sleep
  Histogram latency_ns;  // runner: submit to checked reply, less what the server reports
};

/// The counters of one direction of one path at one moment: plain values, to be kept and merged.
struct DirectionSnapshot {
  std::uint64_t messages = 0;
  std::uint64_t tensors = 0;
  std::uint64_t bytes = 0;
  bool operator==(const DirectionSnapshot&) const = default;
};

struct PathSnapshot {
  DirectionSnapshot sent;
  DirectionSnapshot received;
  std::uint64_t errors = 0;
  std::uint64_t slot_waits = 0;
  std::uint64_t spins = 0;
  std::uint64_t parks = 0;
  HistogramSnapshot latency_ns;
  void merge(const PathSnapshot& other);
  bool operator==(const PathSnapshot&) const = default;
};

/// A TransportStats at one moment. Outlives its channel: what a server keeps of a session that
/// ended.
struct TransportSnapshot {
  std::array<PathSnapshot, kCountOf<Path>> paths;
  PathSnapshot& path(Path path) { return paths[static_cast<std::size_t>(path)]; }
  const PathSnapshot& path(Path path) const { return paths[static_cast<std::size_t>(path)]; }
  void merge(const TransportSnapshot& other);
  bool operator==(const TransportSnapshot&) const = default;
};

/// One end of one channel. Defined counter by counter in docs/STATS.md.
struct TransportStats {
  std::array<PathStats, kCountOf<Path>> paths;
  PathStats& path(Path path) { return paths[static_cast<std::size_t>(path)]; }
  const PathStats& path(Path path) const { return paths[static_cast<std::size_t>(path)]; }
  /// Books one whole message: its header and each tensor on its own path.
  void book_sent(const MessagePlan& plan);
  void book_received(const MessagePlan& plan);
  TransportSnapshot snapshot() const;
  /// Adds what another end counted.
  void merge(const TransportSnapshot& other);
};

}  // namespace airlock
