#include <fmt/format.h>

#include "tests/model_check/ring_rig.h"

namespace airlock::model_check {
namespace {

/// From an empty ring (where the consumer waits) and from a full one (where the producer waits), so
/// that both park, are woken, and take slots again that were used before.
const std::vector<Scenario> kQuick = {
    {.name = "2 slots, empty: 2 messages", .sent = 2, .received = 2},
    {.name = "2 slots, half full: 2 messages", .before = 1, .sent = 2, .received = 2},
    {.name = "2 slots, full: 2 messages", .before = 2, .sent = 2, .received = 2},
    {.name = "2 slots, full, then emptied", .before = 2, .sent = 1, .received = 3},
    {.name = "3 slots, full, one kept",
     .slot_count = 3,
     .before = 3,
     .sent = 2,
     .received = 3,
     .held = 1},
    {.name = "2 parts a message, empty", .slot_count = 4, .sent = 2, .received = 2, .parts = 2},
    {.name = "2 parts a message, full",
     .slot_count = 4,
     .before = 2,
     .sent = 1,
     .received = 2,
     .parts = 2},
    {.name = "claims given back", .before = 1, .sent = 2, .received = 2, .aborts = true},
    {.name = "claims committed crosswise",
     .slot_count = 3,
     .before = 1,
     .sent = 2,
     .received = 3,
     .crossed = true},
    {.name = "the producer dies, empty", .sent = 2, .received = 3, .dies = 0},
    {.name = "the producer dies, full", .before = 2, .sent = 1, .received = 4, .dies = 0},
    {.name = "the producer dies, 2 parts a message",
     .slot_count = 4,
     .sent = 1,
     .received = 2,
     .parts = 2,
     .dies = 0},
    {.name = "the consumer dies, empty", .sent = 3, .received = 1, .dies = 1},
    {.name = "the consumer dies, full", .before = 2, .sent = 2, .received = 2, .dies = 1},
    {.name = "the consumer dies, 2 parts a message",
     .slot_count = 4,
     .before = 2,
     .sent = 1,
     .received = 1,
     .parts = 2,
     .dies = 1},
};

const std::vector<Scenario> kUsual = {
    {.name = "2 slots, empty: 3 messages", .sent = 3, .received = 3},
    {.name = "2 slots, half full: 3 messages", .before = 1, .sent = 3, .received = 3},
    {.name = "2 slots, full: 3 messages", .before = 2, .sent = 3, .received = 3},
    {.name = "3 slots, empty, one kept", .slot_count = 3, .sent = 3, .received = 3, .held = 1},
    {.name = "3 slots, full, one kept: 2 messages",
     .slot_count = 3,
     .before = 3,
     .sent = 2,
     .received = 4,
     .held = 1},
    {.name = "tried before it waits, empty", .sent = 2, .received = 2, .tries = true},
    {.name = "tried before it waits, full", .before = 2, .sent = 2, .received = 2, .tries = true},
    {.name = "futexes left early, empty", .sent = 2, .received = 2, .early_wakes = 1},
    {.name = "futexes left early, full", .before = 2, .sent = 2, .received = 2, .early_wakes = 1},
    {.name = "sleeps instead of futexes, empty",
     .sent = 2,
     .received = 2,
     .mode = WaitMode::kSleep,
     .early_wakes = 1},
    {.name = "sleeps instead of futexes, full",
     .before = 2,
     .sent = 2,
     .received = 2,
     .mode = WaitMode::kSleep,
     .early_wakes = 1},
    {.name = "spins before it parks, empty", .sent = 2, .received = 2, .spins = true},
    {.name = "spins before it parks, full", .before = 2, .sent = 2, .received = 2, .spins = true},
};

const std::vector<Scenario> kLong = {
    {.name = "2 parts a message, full: 2 messages",
     .slot_count = 4,
     .before = 2,
     .sent = 2,
     .received = 2,
     .parts = 2},
    {.name = "3 slots, empty: 3 messages", .slot_count = 3, .sent = 3, .received = 3},
    {.name = "3 slots, full: 3 messages", .slot_count = 3, .before = 3, .sent = 3, .received = 3},
    {.name = "3 messages, claims given back",
     .before = 1,
     .sent = 3,
     .received = 3,
     .aborts = true},
    {.name = "futexes left early twice, empty", .sent = 2, .received = 2, .early_wakes = 2},
    {.name = "futexes left early twice, full",
     .before = 2,
     .sent = 2,
     .received = 2,
     .early_wakes = 2},
    {.name = "the producer dies, half full: 2 messages",
     .before = 1,
     .sent = 2,
     .received = 4,
     .dies = 0},
    {.name = "the consumer dies, full: 3 messages",
     .before = 2,
     .sent = 3,
     .received = 3,
     .dies = 1},
    {.name = "the producer dies, futexes left early",
     .sent = 1,
     .received = 2,
     .early_wakes = 1,
     .dies = 0},
};

}  // namespace

std::vector<Scenario> ring_scenarios(Extent extent) {
  std::vector<Scenario> scenarios = kQuick;
  if (extent != Extent::kQuick) scenarios.insert(scenarios.end(), kUsual.begin(), kUsual.end());
  if (extent == Extent::kLong) scenarios.insert(scenarios.end(), kLong.begin(), kLong.end());
  return scenarios;
}

bool is_caught(const std::string& name, Mutant mutant) {
  RingRig rig;
  std::uint64_t executions = 0;
  for (const Scenario& scenario : ring_scenarios(Extent::kQuick)) {
    const Report report = rig.explore(scenario, mutant);
    executions += report.executions + report.redundant;
    if (report.passed()) continue;
    fmt::print("{}: caught after {} executions, in \"{}\": {}\n", name, executions, scenario.name,
               report.failure.empty() ? "an execution without end" : report.failure);
    for (const std::string& line : report.trace) fmt::print("  {}\n", line);
    return true;
  }
  fmt::print("{}: not caught in {} executions\n", name, executions);
  return false;
}

}  // namespace airlock::model_check
