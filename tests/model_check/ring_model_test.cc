// The ring's own sources in every execution that the memory model allows, in small rings; and that
// faults in them are found. AIRLOCK_MODEL_LONG=1 in the environment adds what takes minutes.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "tests/model_check/ring_rig.h"

namespace airlock::model_check {
namespace {

TEST(RingModel, every_execution_is_right) {
  const bool is_long = std::getenv("AIRLOCK_MODEL_LONG") != nullptr;
  RingRig rig;
  Report sum;
  for (const Scenario& scenario : ring_scenarios(is_long ? Extent::kLong : Extent::kUsual)) {
    const auto start = std::chrono::steady_clock::now();
    const Report report = rig.explore(scenario);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    fmt::print("{:<40} {:>9} executions, {:>8} left as redundant, up to {:>3} steps, {:6.2f} s\n",
               scenario.name, report.executions, report.redundant, report.longest, took.count());
    std::fflush(stdout);
    EXPECT_TRUE(report.passed()) << report.failure << ", cut: " << report.cut;
    EXPECT_EQ(report.died, scenario.dies.has_value());
    for (const std::string& line : report.trace) fmt::print("  {}\n", line);
    sum.executions += report.executions;
  }
  fmt::print("{} executions in all\n", sum.executions);
}

class AccessMutants : public testing::TestWithParam<std::pair<const char*, Mutant>> {};

TEST_P(AccessMutants, are_caught) { EXPECT_TRUE(is_caught(GetParam().first, GetParam().second)); }

INSTANTIATE_TEST_SUITE_P(
    , AccessMutants,
    testing::Values(std::pair{"publish_relaxed", Mutant::kPublishRelaxed},
                    std::pair{"see_published_relaxed", Mutant::kSeePublishedRelaxed},
                    std::pair{"release_relaxed", Mutant::kReleaseRelaxed},
                    std::pair{"see_released_relaxed", Mutant::kSeeReleasedRelaxed},
                    std::pair{"bell_not_sequential", Mutant::kBellNotSequential},
                    std::pair{"arm_not_sequential", Mutant::kArmNotSequential},
                    std::pair{"ask_not_sequential", Mutant::kAskNotSequential},
                    std::pair{"seen_bell_relaxed", Mutant::kSeenBellRelaxed},
                    std::pair{"bell_not_rung", Mutant::kBellNotRung},
                    std::pair{"nobody_arms", Mutant::kNobodyArms},
                    std::pair{"no_wake", Mutant::kNoWake}),
    [](const auto& each) { return std::string(each.param.first); });

/// The explorer does not cry at each change: what the protocol bears, passes.
TEST(RingModel, a_waiting_word_that_stays_set_costs_wakes_only) {
  EXPECT_FALSE(is_caught("nobody_disarms", Mutant::kNobodyDisarms));
}

TEST(RingModel, whoever_arms_may_see_an_old_bell_since_the_futex_compares_again) {
  EXPECT_FALSE(is_caught("seen_bell_acquire", Mutant::kSeenBellAcquire));
}

}  // namespace
}  // namespace airlock::model_check
