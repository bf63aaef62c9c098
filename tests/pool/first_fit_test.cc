#include "pool/first_fit.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <vector>

namespace airlock {
namespace {

constexpr std::uint64_t kPage = 4096;

TEST(FirstFit, gives_the_lowest_run_that_is_long_enough) {
  FirstFit room(kPage);
  EXPECT_FALSE(room.take(1));
  room.add(0, 8 * kPage);
  EXPECT_EQ(room.take(1), 0u);
  EXPECT_EQ(room.take(2 * kPage + 1), kPage);
  EXPECT_EQ(room.take(kPage), 4 * kPage);
  room.give(0, 1);
  EXPECT_EQ(room.take(2 * kPage), 5 * kPage);  // the first page is too short
  EXPECT_EQ(room.take(kPage), 0u);
  EXPECT_EQ(room.longest_run(), kPage);
  EXPECT_FALSE(room.take(2 * kPage));
}

TEST(FirstFit, what_comes_back_joins_its_neighbours) {
  FirstFit room(kPage);
  room.add(0, 3 * kPage);
  for (std::uint64_t at = 0; at < 3; ++at) EXPECT_EQ(room.take(kPage), at * kPage);
  room.give(0, kPage);
  room.give(2 * kPage, kPage);
  EXPECT_EQ(room.longest_run(), kPage);
  room.give(kPage, kPage);
  EXPECT_EQ(room.longest_run(), 3 * kPage);
  EXPECT_EQ(room.free_length(), 3 * kPage);
}

TEST(FirstFit, ranges_that_lie_apart_stay_apart) {
  FirstFit room(1);
  room.add(10, 5);
  room.add(100, 5);
  EXPECT_FALSE(room.take(6));
  EXPECT_EQ(room.take(5), 10u);
  EXPECT_EQ(room.take(5), 100u);
}

TEST(FirstFitDeathTest, knows_what_is_free_already) {
  FirstFit room(1);
  room.add(0, 10);
  EXPECT_DEATH(room.give(3, 2), "");
  EXPECT_DEATH(room.add(9, 5), "");
  EXPECT_DEATH((void)room.take(0), "");
}

/// The same, one number at a time.
class Flags {
 public:
  void set(std::uint64_t begin, std::uint64_t length, bool free) {
    free_.resize(std::max<std::size_t>(free_.size(), begin + length));
    std::fill_n(free_.begin() + static_cast<std::ptrdiff_t>(begin), length, free);
  }
  std::optional<std::uint64_t> lowest_run(std::uint64_t length) const {
    std::uint64_t run = 0;
    for (std::size_t at = 0; at < free_.size(); ++at) {
      run = free_[at] ? run + 1 : 0;
      if (run == length) return at + 1 - length;
    }
    return std::nullopt;
  }
  std::uint64_t longest_run() const {
    std::uint64_t run = 0;
    std::uint64_t longest = 0;
    for (const bool free : free_) longest = std::max(longest, run = free ? run + 1 : 0);
    return longest;
  }
  std::uint64_t free_length() const {
    return static_cast<std::uint64_t>(std::ranges::count(free_, true));
  }

 private:
  std::vector<bool> free_;
};

RC_GTEST_PROP(FirstFitProperty, is_the_simple_one, (const std::vector<std::uint16_t>& steps)) {
  constexpr std::uint64_t kUnit = 4;
  FirstFit room(kUnit);
  Flags simple;
  struct Taken {
    std::uint64_t begin;
    std::uint64_t length;
  };
  std::vector<Taken> taken;
  for (const auto& [begin, length] : {std::pair(0, 64), std::pair(128, 32)}) {
    room.add(begin * kUnit, length * kUnit);
    simple.set(begin, length, true);
  }
  for (const std::uint16_t step : steps) {
    if (step % 3 == 0 && !taken.empty()) {
      const auto at = taken.begin() + step / 3 % static_cast<std::ptrdiff_t>(taken.size());
      room.give(at->begin, at->length);
      simple.set(at->begin / kUnit, (at->length + kUnit - 1) / kUnit, true);
      taken.erase(at);
    } else {
      const std::uint64_t length = 1 + step % 100;
      const std::uint64_t units = (length + kUnit - 1) / kUnit;
      const auto begin = room.take(length);
      const auto expected = simple.lowest_run(units);
      RC_ASSERT(begin.has_value() == expected.has_value());
      if (!begin) continue;
      RC_ASSERT(*begin == *expected * kUnit);
      simple.set(*expected, units, false);
      taken.push_back({*begin, length});
    }
    RC_ASSERT(room.free_length() == simple.free_length() * kUnit);
    RC_ASSERT(room.longest_run() == simple.longest_run() * kUnit);
  }
}

}  // namespace
}  // namespace airlock
