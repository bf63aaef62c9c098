#pragma once

#include <atomic>
#include <cstdint>

#include "tests/model_check/weak_memory.h"

namespace airlock::model_check {

enum class OperationKind : std::uint8_t {
  kLoad,
  kStore,
  kAdd,
  // Sequentially consistent; the others concern one thread alone.
  kFence,
  kFutexWait,
  kFutexWake,
  // What a parked thread may do by itself: time out, or be interrupted.
  kWakeEarly,
  kSleep,
};

/// A step of a thread that others can see, or that sees others: what it is about to do.
struct Operation {
  OperationKind kind = OperationKind::kLoad;
  std::uint8_t word = 0;
  std::memory_order order = std::memory_order_relaxed;
  /// Stored, added, or expected by a futex wait.
  std::uint64_t value = 0;
};

/// An operation that was executed. `alternative` is how: for what loads, the index of the store
/// that it read.
struct Event {
  std::size_t thread = 0;
  Operation operation;
  std::size_t alternative = 0;
  /// Index of what a store or an add put into the word's history.
  std::size_t written = 0;
  std::uint64_t value_read = 0;
  /// Of a load: how many newer stores there were.
  std::size_t behind = 0;
  /// The thread's how-manieth, from 1 on.
  std::uint16_t ordinal = 0;
  /// Which events come before it in every execution that is equivalent to this one; itself too.
  EventClock before = {};
};

/// Whether `event` is one of those that a clock covers.
constexpr bool covers(const EventClock& before, const Event& event) {
  return before[event.thread] >= event.ordinal;
}
constexpr bool comes_before(const Event& first, const Event& second) {
  return covers(second.before, first);
}

constexpr bool writes(const Operation& operation) {
  return operation.kind == OperationKind::kStore || operation.kind == OperationKind::kAdd;
}
/// A futex's wait compares as a sequentially consistent load does, and orders nothing else: less
/// than what the kernel's barriers give.
constexpr bool only_loads(const Operation& operation) {
  return operation.kind == OperationKind::kLoad || operation.kind == OperationKind::kFutexWait;
}
constexpr bool is_sequential(const Operation& operation) {
  return operation.order == std::memory_order_seq_cst;
}

/// How an event bears on one of another thread that was executed after it.
struct Relation {
  /// Exchanged, they would give another state: they are ordered.
  bool dependent = false;
  /// The other order can bring something new, and has to be tried where nothing else forbids it.
  bool worth_reversing = false;
};

/// Where a load that is not sequentially consistent and a store of its word meet, two facts save
/// most of the work. A load that reads an older store commutes with a newer one. And a load
/// executed after a store may still read older ones (its alternatives are all tried), so nothing is
/// learnt from trying it before; only a load that came first must also be tried after.
Relation relation(const Event& earlier, const Event& later);

}  // namespace airlock::model_check
