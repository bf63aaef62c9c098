#include "runtime/cpu/blas.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace airlock::blas {
namespace {

constexpr std::int64_t kSide = 64;
constexpr std::int64_t kDepth = 48;
constexpr std::size_t kThreads = 4;
constexpr int kRounds = 300;

/// Small integers, so that a product has one result whatever the order of its sums.
std::vector<double> integers(std::int64_t count, std::uint32_t seed) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < count; ++i)
    values.push_back(
        static_cast<double>((static_cast<std::uint32_t>(i) * 2654435761U + seed) % 255) - 127);
  return values;
}

TEST(Blas, products_at_the_same_time_are_right) {
  std::atomic<int> wrong = 0;
  std::atomic<std::size_t> there = 0;
  std::vector<std::thread> threads;
  for (std::size_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, seed = static_cast<std::uint32_t>(thread)] {
      const std::vector<double> a = integers(kSide * kDepth, seed);
      const std::vector<double> b = integers(kSide * kDepth, seed + 100);
      std::vector<double> want(kSide * kSide);
      for (std::int64_t i = 0; i < kSide * kSide; ++i) {
        for (std::int64_t j = 0; j < kDepth; ++j)
          want[static_cast<std::size_t>(i)] += a[static_cast<std::size_t>(i / kSide * kDepth + j)] *
                                               b[static_cast<std::size_t>(i % kSide * kDepth + j)];
      }
      for (++there; there < kThreads;) std::this_thread::yield();
      for (int round = 0; round < kRounds; ++round) {
        std::vector<double> c(kSide * kSide, -1);
        dgemm(kSide, kSide, kDepth, {a.data(), kDepth}, {b.data(), kDepth, true}, c.data(), kSide);
        wrong += c != want;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0) << name();
}

TEST(Blas, takes_transposes_and_strides) {
  // a = [[1, 2, 3], [4, 5, 6]] by rows of 4, and as its transpose; b = [[1, 0], [0, 1], [1, 1]].
  const std::vector<double> a = {1, 2, 3, 99, 4, 5, 6, 99};
  const std::vector<double> a_lies = {1, 4, 2, 5, 3, 6};
  const std::vector<double> b = {1, 0, 0, 1, 1, 1};
  const std::vector<double> b_lies = {1, 0, 1, 0, 1, 1};
  const std::vector<double> want = {4, 5, 10, 11};
  for (const bool left : {false, true}) {
    for (const bool right : {false, true}) {
      std::vector<double> c(6, std::nan(""));
      dgemm(2, 2, 3, left ? Matrix{a_lies.data(), 2, true} : Matrix{a.data(), 4},
            right ? Matrix{b_lies.data(), 3, true} : Matrix{b.data(), 2}, c.data(), 3);
      EXPECT_EQ((std::vector{c[0], c[1], c[3], c[4]}), want);
      EXPECT_TRUE(std::isnan(c[2]) && std::isnan(c[5])) << "columns beyond its own";
    }
  }
}

TEST(Blas, has_a_name) { EXPECT_TRUE(name().starts_with("BLIS ")); }

}  // namespace
}  // namespace airlock::blas
