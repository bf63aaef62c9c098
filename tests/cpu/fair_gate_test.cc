#include "runtime/cpu/fair_gate.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <future>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace airlock {
namespace {

OpLife soon() { return Deadline::after(std::chrono::seconds(60)); }

void wait_for_waiters(const FairGate& gate, std::size_t count) {
  while (gate.waiting() < count) std::this_thread::yield();
}

/// The time that the gates of these tests count by: it passes when a test says so.
std::atomic<std::uint64_t> fake_ns{0};
std::uint64_t fake_clock() { return fake_ns.load(); }

/// A session's thread: it waits for one turn, notes its name when it comes, and takes `cost_ns`.
class Visitor {
 public:
  Visitor(FairGate& gate, FairGate::Share& share, std::vector<std::string>& order, std::string name,
          std::uint64_t cost_ns)
      : thread_([&gate, &share, &order, name = std::move(name), cost_ns] {
          auto turn = gate.enter(share, soon());
          if (!turn.ok()) return;
          order.push_back(name);
          fake_ns += cost_ns;
        }) {}
  ~Visitor() { thread_.join(); }

 private:
  std::thread thread_;
};

/// Lets `share` compute for so long.
void use(FairGate& gate, FairGate::Share& share, std::uint64_t ns) {
  auto turn = gate.enter(share, soon());
  ASSERT_TRUE(turn.ok());
  fake_ns += ns;
}

TEST(FairGate, lets_one_in_after_another) {
  FairGate gate;
  FairGate::Share share;
  { ASSERT_TRUE(gate.enter(share, soon()).ok()); }
  EXPECT_TRUE(gate.enter(share, soon()).ok());
}

TEST(FairGate, enters_a_free_gate_whatever_the_deadline) {
  FairGate gate;
  FairGate::Share share;
  EXPECT_TRUE(gate.enter(share, Deadline::now()).ok());
}

TEST(FairGate, gives_up_at_the_deadline_and_leaves_no_trace) {
  FairGate gate;
  FairGate::Share share;
  FairGate::Share other;
  {
    auto turn = gate.enter(share, soon());
    ASSERT_TRUE(turn.ok());
    auto late = gate.enter(other, Deadline::after(std::chrono::milliseconds(5)));
    ASSERT_FALSE(late.ok());
    EXPECT_EQ(late.status().code(), StatusCode::kDeadlineExceeded);
    EXPECT_EQ(gate.waiting(), 0U);
  }
  EXPECT_TRUE(gate.enter(other, soon()).ok());
}

TEST(FairGate, gives_up_once_nobody_wants_the_result) {
  FairGate gate;
  FairGate::Share share;
  FairGate::Share other;
  auto turn = gate.enter(share, soon());
  ASSERT_TRUE(turn.ok());
  int asked = 0;
  const OpLife life(Deadline::after(std::chrono::seconds(60)), [&asked]() -> Status {
    return ++asked < 3 ? Status() : Status(StatusCode::kUnavailable, "the client left");
  });
  auto gone = gate.enter(other, life);
  ASSERT_FALSE(gone.ok());
  EXPECT_EQ(gone.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(gone.status().message().find("the client left"), std::string::npos);
  EXPECT_EQ(gate.waiting(), 0U);
}

TEST(FairGate, serves_equals_in_the_order_of_arrival) {
  FairGate gate(fake_clock);
  FairGate::Share first;
  std::array<FairGate::Share, 8> shares;
  std::vector<std::string> order;  // guarded by the gate itself
  std::list<Visitor> visitors;
  {
    auto turn = gate.enter(first, soon());
    ASSERT_TRUE(turn.ok());
    for (std::size_t i = 0; i < shares.size(); ++i) {
      visitors.emplace_back(gate, shares[i], order, std::to_string(i), 0);
      wait_for_waiters(gate, i + 1);
    }
  }
  visitors.clear();
  EXPECT_EQ(order, (std::vector<std::string>{"0", "1", "2", "3", "4", "5", "6", "7"}));
}

TEST(FairGate, lets_the_one_go_first_who_used_the_least) {
  FairGate gate(fake_clock);
  FairGate::Share first;
  FairGate::Share much;
  FairGate::Share little;
  std::vector<std::string> order;
  std::list<Visitor> visitors;
  // Both come before anybody has used anything, and so neither is lifted to the others' level.
  {
    auto turn = gate.enter(first, soon());
    ASSERT_TRUE(turn.ok());
    visitors.emplace_back(gate, much, order, "much", 100);
    wait_for_waiters(gate, 1);
    visitors.emplace_back(gate, little, order, "little", 10);
    wait_for_waiters(gate, 2);
  }
  visitors.clear();
  {
    auto turn = gate.enter(first, soon());
    ASSERT_TRUE(turn.ok());
    visitors.emplace_back(gate, much, order, "much again", 0);
    wait_for_waiters(gate, 1);
    visitors.emplace_back(gate, little, order, "little again", 0);
    wait_for_waiters(gate, 2);
  }
  visitors.clear();
  EXPECT_EQ(order, (std::vector<std::string>{"much", "little", "little again", "much again"}));
}

TEST(FairGate, gives_an_idle_session_no_credit) {
  FairGate gate(fake_clock);
  FairGate::Share idle;
  FairGate::Share busy;
  FairGate::Share other;
  use(gate, idle, 1);
  for (int i = 0; i < 10; ++i) use(gate, busy, 1000);
  // Whoever was away comes in at the level of the others, uses a little, and is behind those who
  // are at that level now, whatever was used long ago.
  std::vector<std::string> order;
  std::list<Visitor> visitors;
  {
    auto turn = gate.enter(busy, soon());
    ASSERT_TRUE(turn.ok());
    visitors.emplace_back(gate, idle, order, "idle", 500);
    wait_for_waiters(gate, 1);
    visitors.emplace_back(gate, other, order, "other", 1);
    wait_for_waiters(gate, 2);
  }
  visitors.clear();
  {
    auto turn = gate.enter(busy, soon());
    ASSERT_TRUE(turn.ok());
    visitors.emplace_back(gate, idle, order, "idle again", 0);
    wait_for_waiters(gate, 1);
    visitors.emplace_back(gate, other, order, "other again", 0);
    wait_for_waiters(gate, 2);
  }
  visitors.clear();
  EXPECT_EQ(order, (std::vector<std::string>{"idle", "other", "other again", "idle again"}));
}

// A client that says hello for each op begins anew each time.
TEST(FairGate, lets_no_stream_of_newcomers_starve_a_session) {
  FairGate gate(fake_clock);
  FairGate::Share old;
  use(gate, old, 10'000'000);
  const auto enter = [&gate](FairGate::Share& share) {
    return std::async(std::launch::async, [&] { return gate.enter(share, soon()); });
  };
  std::list<FairGate::Share> newcomers(1);
  auto turn = std::make_unique<FairGate::Turn>(gate.enter(newcomers.back(), soon()).value());
  auto waits = enter(old);
  wait_for_waiters(gate, 1);
  int before_it = 0;
  while (before_it < 40) {
    auto next = enter(newcomers.emplace_back());
    wait_for_waiters(gate, 2);
    fake_ns += 10'000'000;
    turn.reset();
    while (next.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready &&
           waits.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready) {
    }
    if (waits.wait_for(std::chrono::seconds(0)) == std::future_status::ready) {
      EXPECT_TRUE(waits.get().ok());
      EXPECT_TRUE(next.get().ok());
      break;
    }
    turn = std::make_unique<FairGate::Turn>(next.get().value());
    ++before_it;
  }
  // Each of them would have been first by what it had used.
  EXPECT_LE(before_it, 13);
}

TEST(FairGate, passes_a_long_ops_turn_to_a_newcomer_after_one_part) {
  FairGate gate(fake_clock);
  FairGate::Share hog;
  FairGate::Share victim;
  std::vector<std::string> order;
  auto turn = gate.enter(hog, soon());
  ASSERT_TRUE(turn.ok());
  fake_ns += 50;
  EXPECT_TRUE(gate.keep(*turn));
  ASSERT_TRUE(gate.pass_on(*turn, soon()).ok());  // nobody waits: it goes on
  {
    const Visitor visitor(gate, victim, order, "victim", 5);
    wait_for_waiters(gate, 1);
    fake_ns += 50;
    EXPECT_FALSE(gate.keep(*turn));
    ASSERT_TRUE(gate.pass_on(*turn, soon()).ok());
    order.emplace_back("hog");
  }
  EXPECT_EQ(order, (std::vector<std::string>{"victim", "hog"}));
}

TEST(FairGate, lets_a_newcomer_wait_for_one_part_however_many_long_ops_there_are) {
  FairGate gate(fake_clock);
  constexpr std::size_t kHogs = 6;
  std::array<FairGate::Share, kHogs> shares;
  std::atomic<std::size_t> begun{0};
  std::atomic<bool> victim_waits{false};
  std::atomic<bool> victim_done{false};
  std::atomic<int> parts_after{0};  // of hogs, between the victim's coming and its turn
  std::vector<std::thread> hogs;
  for (FairGate::Share& share : shares) {
    hogs.emplace_back([&] {
      auto turn = gate.enter(share, soon());
      ++begun;
      while (turn.ok() && !victim_done) {
        fake_ns += 50;
        if (victim_waits) ++parts_after;
        if (!gate.pass_on(*turn, soon()).ok()) return;
      }
    });
  }
  while (begun < kHogs) std::this_thread::yield();
  FairGate::Share victim;
  const OpLife life(Deadline::after(std::chrono::seconds(60)), [&]() -> Status {
    victim_waits = true;  // it stands in line now
    return {};
  });
  {
    auto turn = gate.enter(victim, life);
    ASSERT_TRUE(turn.ok());
    EXPECT_LE(parts_after, 1);
    victim_done = true;
  }
  for (std::thread& thread : hogs) thread.join();
}

TEST(FairGate, goes_on_without_a_long_op_that_nobody_wants) {
  FairGate gate(fake_clock);
  FairGate::Share hog;
  FairGate::Share other;
  std::atomic<bool> may_leave{false};
  auto turn = gate.enter(hog, soon());
  ASSERT_TRUE(turn.ok());
  std::thread visitor([&] {
    auto mine = gate.enter(other, soon());
    while (!may_leave) std::this_thread::yield();
  });
  wait_for_waiters(gate, 1);
  fake_ns += 50;
  const OpLife over(Deadline::after(std::chrono::seconds(60)),
                    [] { return Status(StatusCode::kUnavailable, "the client left"); });
  EXPECT_EQ(gate.pass_on(*turn, over).code(), StatusCode::kUnavailable);
  EXPECT_EQ(gate.waiting(), 0U);
  may_leave = true;
  visitor.join();
  EXPECT_TRUE(gate.enter(hog, soon()).ok());  // with the lost turn still alive
}

TEST(FairGate, holds_one_at_a_time_under_contention) {
  FairGate gate;
  int inside = 0;  // guarded by the gate itself: a sanitizer sees a race if it is not
  int most = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      FairGate::Share share;
      for (int round = 0; round < 500; ++round) {
        auto turn = gate.enter(share, soon());
        if (turn.ok() && round % 3 == 0 && !gate.pass_on(*turn, soon()).ok()) return;
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
