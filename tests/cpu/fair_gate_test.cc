#include "runtime/cpu/fair_gate.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace airlock {
namespace {

Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }

void wait_for_waiters(const FairGate& gate, std::size_t count) {
  while (gate.waiting() < count) std::this_thread::yield();
}

TEST(FairGate, lets_one_in_after_another) {
  FairGate gate;
  { ASSERT_TRUE(gate.enter(soon()).ok()); }
  EXPECT_TRUE(gate.enter(soon()).ok());
}

TEST(FairGate, enters_a_free_gate_whatever_the_deadline) {
  FairGate gate;
  EXPECT_TRUE(gate.enter(Deadline::now()).ok());
}

TEST(FairGate, gives_up_at_the_deadline_and_leaves_no_trace) {
  FairGate gate;
  {
    auto turn = gate.enter(soon());
    ASSERT_TRUE(turn.ok());
    auto late = gate.enter(Deadline::after(std::chrono::milliseconds(5)));
    ASSERT_FALSE(late.ok());
    EXPECT_EQ(late.status().code(), StatusCode::kDeadlineExceeded);
    EXPECT_EQ(gate.waiting(), 0U);
  }
  EXPECT_TRUE(gate.enter(soon()).ok());
}

TEST(FairGate, serves_in_the_order_of_arrival) {
  FairGate gate;
  std::vector<int> order;  // guarded by the gate itself
  std::vector<std::thread> threads;
  {
    auto turn = gate.enter(soon());
    ASSERT_TRUE(turn.ok());
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&gate, &order, i] {
        auto mine = gate.enter(soon());
        if (mine.ok()) order.push_back(i);
      });
      wait_for_waiters(gate, static_cast<std::size_t>(i) + 1);
    }
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST(FairGate, holds_one_at_a_time_under_contention) {
  FairGate gate;
  int inside = 0;  // guarded by the gate itself: a sanitizer sees a race if it is not
  int most = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 500; ++round) {
        auto turn = gate.enter(soon());
        if (!turn.ok()) return;
        ++inside;
        most = std::max(most, inside);
        --inside;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(most, 1);
}

}  // namespace
}  // namespace airlock
