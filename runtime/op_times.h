#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace airlock {

/// Where an op's time on a device went, by the device's own clock; part of server_ns, and zero on a
/// CPU. Parts of ops that overlap count whole in each.
template <typename Cell>
struct DeviceTimesOf {
  // Operands to the device.
  Cell copy_in_ns{};
  // Kernels.
  Cell compute_ns{};
  // Results back.
  Cell copy_out_ns{};
  bool operator==(const DeviceTimesOf&) const = default;
  /// each("copy_in_ns", a.copy_in_ns, b.copy_in_ns, ...) and so on: the one list of these parts and
  /// of the keys under which files have them.
  template <typename Each, typename... Times>
  static void visit(Each&& each, Times&... times) {
    each("copy_in_ns", times.copy_in_ns...);
    each("compute_ns", times.compute_ns...);
    each("copy_out_ns", times.copy_out_ns...);
  }
};

/// Where the time of an op went, or that of many ops added up: total = tee + wire + queue + server.
/// The one record of an op's durations, from the backends to statistics, traces and replays.
template <typename Cell>
struct OpTimesOf {
  // The caller's wait: in prepare(), where an op may have to wait for slots, and from submit() to
  // the checked result, whenever wait() was called. What the caller did in between is not the op's.
  Cell total_ns{};
  // The runner's own work on the message: checking the spec, encoding the request, checking the
  // reply. Rounding and copying operands is the caller's. Zero in a server's counts.
  Cell tee_ns{};
  // The rest of total_ns, never negative: waiting for slots, the transport, waking up.
  Cell wire_ns{};
  // Waited for its turn; a server's word, bounded by total_ns.
  Cell queue_ns{};
  // Computed; a server's word, bounded by total_ns.
  Cell server_ns{};
  DeviceTimesOf<Cell> device{};
  bool operator==(const OpTimesOf&) const = default;
};

using DeviceTimes = DeviceTimesOf<std::uint64_t>;
using OpTimes = OpTimesOf<std::uint64_t>;
/// The same as counters: relaxed atomics, of which one thread adds and any thread reads.
using AtomicOpTimes = OpTimesOf<std::atomic<std::uint64_t>>;

/// Makes the parts add up to total_ns: tee, queue and server, in this order, are bounded by what is
/// left of it (the last two may be a server's word), and wire is the rest.
inline void balance(OpTimes& times) {
  std::uint64_t left = times.total_ns;
  for (std::uint64_t* part : {&times.tee_ns, &times.queue_ns, &times.server_ns}) {
    *part = std::min(*part, left);
    left -= *part;
  }
  times.wire_ns = left;
}

/// `times` of something that had parts at the same time: what a server says, of the slowest.
inline void take_slowest(OpTimes& times, const OpTimes& part) {
  times.server_ns = std::max(times.server_ns, part.server_ns);
  const auto most = [](const char*, std::uint64_t& mine, const std::uint64_t& other) {
    mine = std::max(mine, other);
  };
  DeviceTimes::visit(most, times.device, part.device);
}

/// visit("total_ns", a.total_ns, b.total_ns, ...) and so on, as DeviceTimesOf::visit(); the
/// device's parts are not among them.
template <typename Visit, typename... Times>
void visit_times(Visit&& visit, Times&... times) {
  visit("total_ns", times.total_ns...);
  visit("tee_ns", times.tee_ns...);
  visit("wire_ns", times.wire_ns...);
  visit("queue_ns", times.queue_ns...);
  visit("server_ns", times.server_ns...);
}

}  // namespace airlock
