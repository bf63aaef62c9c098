#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "base/status.h"
#include "base/thread_pool.h"
#include "runtime/compute.h"
#include "runtime/cpu/fair_gate.h"

namespace airlock {

/// The longest time that the compute threads work for one op while another one may wait, but for
/// the pieces that are under way then.
inline constexpr std::chrono::milliseconds kSlice{20};

/// One op's work on the compute threads, piece by piece. Whenever a slice of time is over it is
/// asked whether the result is still wanted, and whoever waits and has used less goes first. Holds
/// a turn from the first piece until it is destroyed. One thread.
class SlicedRun {
 public:
  /// All of it outlives the run; the pool belongs to whoever has the gate's turn.
  SlicedRun(FairGate& gate, FairGate::Share& share, ThreadPool& pool, const OpLife& life)
      : gate_(gate), share_(share), pool_(pool), life_(life) {}

  /// Calls body(worker, piece) once for each piece below `count`, in any order and on any thread;
  /// `worker` < worker_count(count, most_workers) tells threads apart. Ok: every piece is done.
  /// Else the rest was not begun: what OpLife::check() says. What a body throws is thrown here.
  Status run(std::size_t count,
             const std::function<void(std::size_t worker, std::size_t piece)>& body,
             std::size_t most_workers = ~std::size_t{0});
  std::size_t worker_count(std::size_t count, std::size_t most_workers) const;
  /// For turns, so far.
  std::uint64_t waited_ns() const { return waited_ns_; }

 private:
  Status take_turn();

  FairGate& gate_;
  FairGate::Share& share_;
  ThreadPool& pool_;
  const OpLife& life_;
  std::optional<FairGate::Turn> turn_;
  std::uint64_t slice_end_ns_ = 0;
  std::uint64_t waited_ns_ = 0;
};

}  // namespace airlock
