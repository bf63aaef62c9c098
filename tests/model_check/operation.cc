#include "tests/model_check/operation.h"

namespace airlock::model_check {
namespace {

constexpr Relation kNone = {};
constexpr Relation kConflict = {true, true};

bool is_queue(const Operation& operation) {
  return operation.kind == OperationKind::kFutexWait ||
         operation.kind == OperationKind::kFutexWake || operation.kind == OperationKind::kWakeEarly;
}

/// A wake against what stands in the futex's queue, or leaves it.
bool meet_in_queue(const Operation& a, const Operation& b) {
  return is_queue(a) && is_queue(b) &&
         (a.kind == OperationKind::kFutexWake) != (b.kind == OperationKind::kFutexWake);
}

}  // namespace

Relation relation(const Event& earlier, const Event& later) {
  const Operation& a = earlier.operation;
  const Operation& b = later.operation;
  const bool both_sequential = is_sequential(a) && is_sequential(b);
  if (a.kind == OperationKind::kFence || b.kind == OperationKind::kFence)
    return both_sequential ? kConflict : kNone;
  if (a.kind == OperationKind::kSleep || b.kind == OperationKind::kSleep || a.word != b.word)
    return kNone;
  if (meet_in_queue(a, b)) return kConflict;
  if (writes(a) && writes(b)) return kConflict;
  if (only_loads(a) && writes(b)) return {both_sequential, true};
  if (writes(a) && only_loads(b)) {
    if (both_sequential) return kConflict;
    return {later.alternative == earlier.written, false};
  }
  // A sequentially consistent load keeps later ones from reading what is older: had it come second,
  // they might have.
  if (only_loads(a) && only_loads(b) && both_sequential)
    return {earlier.alternative != later.alternative, true};
  return kNone;
}

}  // namespace airlock::model_check
