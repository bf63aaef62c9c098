#include "shm/wait.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <utility>

namespace airlock {
namespace {

struct Words {
  alignas(128) std::uint32_t bell = 0;
  alignas(128) std::uint32_t waiting = 0;
  Doorbell doorbell() { return {&bell, &waiting}; }
};

TEST(Waiter, idle_wait_parks_in_few_slices_and_does_not_poll) {
  Words words;
  Waiter waiter;
  int looks = 0;
  int checks = 0;
  const Status status = waiter.wait(
      words.doorbell(), [&] { return ++looks < 0; },
      Deadline::after(std::chrono::milliseconds(300)),
      [&] {
        ++checks;
        return Status();
      });
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_GE(waiter.counters().parks, 1u);
  EXPECT_LE(waiter.counters().parks, 8u);
  EXPECT_LE(looks, 20);
  EXPECT_GE(checks, 2);
  EXPECT_EQ(waiter.counters().spins, 0u);
  EXPECT_EQ(words.waiting, 0u);
}

TEST(Waiter, sleeps_longer_once_nothing_has_come_for_a_second_until_something_does) {
  Words words;
  Waiter waiter;
  const auto wait = [&](std::chrono::milliseconds time) {
    const std::uint64_t before = waiter.counters().parks;
    EXPECT_EQ(waiter.wait(words.doorbell(), [] { return false; }, Deadline::after(time), {}).code(),
              StatusCode::kDeadlineExceeded);
    return waiter.counters().parks - before;
  };
  // Of several waits together, as a server's are; on a busy machine there are fewer.
  std::uint64_t parks = 0;
  for (int i = 0; i < 6; ++i) parks += wait(std::chrono::milliseconds(500));
  EXPECT_LE(parks, 25u);  // 20 in the first second, then 4; always 50 ms would be 60
  bool came = false;
  EXPECT_TRUE(waiter
                  .wait(words.doorbell(),
                        [&] {
                          ++words.bell;  // so that it does not sleep
                          return std::exchange(came, true);
                        },
                        Deadline::after(std::chrono::seconds(60)), {})
                  .ok());
  EXPECT_GE(wait(std::chrono::milliseconds(500)), 2u);
}

TEST(Waiter, what_is_ready_needs_no_deadline_and_no_check) {
  Words words;
  Waiter waiter;
  const WaitCheck dead = [] { return Status(StatusCode::kUnavailable, "dead"); };
  EXPECT_TRUE(waiter
                  .wait(
                      words.doorbell(), [] { return true; }, Deadline::now(), dead)
                  .ok());
  EXPECT_EQ(waiter
                .wait(
                    words.doorbell(), [] { return false; }, Deadline::now(), dead)
                .code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(waiter.wait(words.doorbell(), [] { return false; }, Deadline::now(), {}).code(),
            StatusCode::kDeadlineExceeded);
  EXPECT_EQ(waiter.counters().parks, 0u);
}

TEST(Waiter, what_came_between_the_last_look_and_the_end_of_the_peer_is_found) {
  Words words;
  Waiter waiter;
  bool published = false;
  const WaitCheck last_words = [&] {
    published = true;
    return Status(StatusCode::kUnavailable, "the peer died");
  };
  const Deadline watchdog = Deadline::after(std::chrono::seconds(60));
  EXPECT_TRUE(waiter
                  .wait(
                      words.doorbell(), [&] { return published; }, watchdog, last_words)
                  .ok());
}

TEST(Waiter, wakes_a_parked_waiter) {
  Words words;
  Waiter waiter;
  std::atomic<bool> published{false};
  std::atomic<bool> about_to_park{false};
  std::thread peer([&] {
    about_to_park.wait(false);
    published = true;
    wake_waiters(words.doorbell());
  });
  const Status status = waiter.wait(
      words.doorbell(), [&] { return published.load(); }, Deadline::after(std::chrono::seconds(60)),
      [&] {
        about_to_park = true;
        about_to_park.notify_one();
        return Status();
      });
  EXPECT_TRUE(status.ok());
  peer.join();
}

TEST(Waiter, peer_that_wakes_without_end_cannot_outlast_the_deadline) {
  Words words;
  Waiter waiter;
  std::atomic<bool> stop{false};
  std::thread peer([&] {
    while (!stop) wake_waiters(words.doorbell());
  });
  EXPECT_EQ(waiter
                .wait(words.doorbell(), [] { return false; },
                      Deadline::after(std::chrono::milliseconds(20)), {})
                .code(),
            StatusCode::kDeadlineExceeded);
  stop = true;
  peer.join();
}

TEST(Waiter, finds_what_came_without_a_wake) {
  Words words;
  Waiter waiter;
  for (int i = 0; i < 5; ++i) {
    std::atomic<bool> published{false};
    std::thread peer([&] {
      published = true;
      std::atomic_ref(words.bell).fetch_add(1);  // the futex call does not arrive (Gramine)
    });
    EXPECT_TRUE(waiter
                    .wait(words.doorbell(), [&] { return published.load(); },
                          Deadline::after(std::chrono::seconds(60)), {})
                    .ok());
    peer.join();
  }
}

}  // namespace
}  // namespace airlock
