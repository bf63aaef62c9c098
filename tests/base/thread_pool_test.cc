#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>
#include <vector>

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
    ThreadPool pool(threads);
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
  ThreadPool first(3);
  ThreadPool second(3);
  EXPECT_EQ(parts_of(first, 100), parts_of(first, 100));
  EXPECT_EQ(parts_of(first, 100), parts_of(second, 100));
  EXPECT_EQ(parts_of(first, 100).size(), 3U);
}

TEST(ThreadPool, one_thread_runs_in_the_caller) {
  ThreadPool pool(1);
  EXPECT_EQ(pool.thread_count(), 1U);
  std::thread::id ran;
  pool.parallel_for(10, [&ran](std::size_t, std::size_t) { ran = std::this_thread::get_id(); });
  EXPECT_EQ(ran, std::this_thread::get_id());
}

TEST(ThreadPool, has_done_everything_when_it_returns) {
  ThreadPool pool(4);
  std::vector<int> values(64);
  for (int round = 1; round <= 2000; ++round) {
    pool.parallel_for(values.size(), [&values](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) ++values[i];
    });
    ASSERT_EQ(std::count(values.begin(), values.end(), round), 64) << round;
  }
}

TEST(ThreadPool, ends_without_having_worked) {
  const ThreadPool pool(5);
  EXPECT_EQ(pool.thread_count(), 5U);
}

}  // namespace
}  // namespace airlock
