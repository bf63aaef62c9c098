#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <vector>

#include "base/deadline.h"

namespace airlock {
namespace {

using Parts = std::set<std::pair<std::size_t, std::size_t>>;

Parts parts_of(ThreadPool& pool, std::size_t count) {
  std::mutex mutex;
  Parts parts;
  pool.parallel_for(count, [&](std::size_t begin, std::size_t end) {
    const std::lock_guard lock(mutex);
    parts.emplace(begin, end);
  });
  return parts;
}

TEST(ThreadPool, covers_every_item_exactly_once) {
  for (std::size_t threads : {1U, 2U, 3U, 7U}) {
    const auto owned_pool = ThreadPool::create(threads).value();
    ThreadPool& pool = *owned_pool;
    for (std::size_t count : {0U, 1U, 2U, 6U, 7U, 8U, 1000U}) {
      std::vector<std::atomic<int>> visits(count);
      pool.parallel_for(count, [&visits](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) ++visits[i];
      });
      EXPECT_TRUE(
          std::all_of(visits.begin(), visits.end(), [](const auto& visit) { return visit == 1; }))
          << threads << " threads, " << count << " items";
    }
  }
}

TEST(ThreadPool, splits_the_same_way_each_time) {
  const auto owned_first = ThreadPool::create(3).value();
  ThreadPool& first = *owned_first;
  const auto owned_second = ThreadPool::create(3).value();
  ThreadPool& second = *owned_second;
  EXPECT_EQ(parts_of(first, 100), parts_of(first, 100));
  EXPECT_EQ(parts_of(first, 100), parts_of(second, 100));
  EXPECT_EQ(parts_of(first, 100).size(), 3U);
}

TEST(ThreadPool, one_thread_runs_in_the_caller) {
  const auto owned_pool = ThreadPool::create(1).value();
  ThreadPool& pool = *owned_pool;
  EXPECT_EQ(pool.thread_count(), 1U);
  std::thread::id ran;
  pool.parallel_for(10, [&ran](std::size_t, std::size_t) { ran = std::this_thread::get_id(); });
  EXPECT_EQ(ran, std::this_thread::get_id());
}

TEST(ThreadPool, has_done_everything_when_it_returns) {
  const auto owned_pool = ThreadPool::create(4).value();
  ThreadPool& pool = *owned_pool;
  std::vector<int> values(64);
  for (int round = 1; round <= 2000; ++round) {
    pool.parallel_for(values.size(), [&values](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) ++values[i];
    });
    ASSERT_EQ(std::count(values.begin(), values.end(), round), 64) << round;
  }
}

TEST(ThreadPool, throws_what_a_body_throws_and_works_on) {
  for (const std::size_t threads : {1, 4}) {
    const auto pool = ThreadPool::create(threads).value();
    for (int round = 0; round < 100; ++round) {
      const auto fail = [](std::size_t, std::size_t end) {
        if (end == 8) throw std::runtime_error("the last part");
      };
      EXPECT_THROW(pool->parallel_for(8, fail), std::runtime_error);
      std::atomic<std::size_t> items{0};
      pool->parallel_for(8, [&](std::size_t begin, std::size_t end) { items += end - begin; });
      EXPECT_EQ(items, 8U);
    }
  }
}

TEST(ThreadPool, takes_no_time_while_it_is_idle) {
  const auto pool = ThreadPool::create(4).value();
  pool->parallel_for(4, [](std::size_t, std::size_t) {});
  const auto used_ns = [] {
    timespec used{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return used.tv_sec * 1'000'000'000 + used.tv_nsec;
  };
  // Its threads fall asleep within their spin, whenever the machine lets them run: sooner or later
  // a moment passes in which nothing is used but by the one who looks.
  const Deadline limit = Deadline::after(std::chrono::seconds(60));
  for (bool idle = false; !idle && !limit.expired();) {
    const auto before = used_ns();
    ::usleep(20'000);
    idle = used_ns() - before < 1'000'000;
    if (limit.expired()) FAIL() << "the pool's threads never slept";
  }
}

TEST(ThreadPool, ends_without_having_worked) {
  const auto owned_pool = ThreadPool::create(5).value();
  const ThreadPool& pool = *owned_pool;
  EXPECT_EQ(pool.thread_count(), 5U);
}

}  // namespace
}  // namespace airlock
