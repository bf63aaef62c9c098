#include "tests/quality/closeness.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace airlock::testing {
namespace {

float log_of(double p) { return static_cast<float>(std::log(p)); }

const std::vector<float> kEven = {log_of(0.5), log_of(0.5)};
const std::vector<float> kOneToThree = {log_of(0.25), log_of(0.75)};

std::vector<float> both(const std::vector<float>& first, const std::vector<float>& second) {
  std::vector<float> rows = first;
  rows.insert(rows.end(), second.begin(), second.end());
  return rows;
}

TEST(Closeness, OfTheSameLogitsIsPerfect) {
  Closeness closeness;
  const auto rows = both(kEven, kOneToThree);
  closeness.add(std::vector<std::int32_t>{0, 1}, rows, rows);
  const auto figures = closeness.figures();
  EXPECT_EQ(figures.positions, 2U);
  EXPECT_EQ(figures.mean_kl, 0);
  EXPECT_EQ(figures.worst_kl, 0);
  EXPECT_EQ(figures.perplexity_ratio, 1);
  EXPECT_EQ(figures.top_equal, 1);
}

TEST(Closeness, IsThatOfProbabilitiesByHand) {
  Closeness closeness;
  closeness.add(std::vector<std::int32_t>{1, 0}, both(kEven, kEven), both(kOneToThree, kEven));
  const auto figures = closeness.figures();
  const double kl = 0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3);
  EXPECT_NEAR(figures.worst_kl, kl, 1e-7);
  EXPECT_NEAR(figures.mean_kl, kl / 2, 1e-7);
  // Of the one token that follows another: a quarter instead of a half.
  EXPECT_NEAR(figures.perplexity_ratio, 2, 1e-6);
  EXPECT_NEAR(figures.perplexity_error, 0, 1e-3);
  EXPECT_EQ(figures.top_equal, 0.5);
}

TEST(Closeness, AMeanOfTokensHasAnError) {
  Closeness closeness;
  // One loses log 2, one nothing: their mean is half of it, and so is their standard deviation.
  closeness.add(std::vector<std::int32_t>{1, 0}, both(kEven, kEven), both(kOneToThree, kEven));
  closeness.add(std::vector<std::int32_t>{1, 0}, both(kEven, kEven), both(kEven, kEven));
  const auto figures = closeness.figures();
  EXPECT_NEAR(figures.perplexity_ratio, std::sqrt(2.0), 1e-6);
  EXPECT_NEAR(figures.perplexity_error, std::log(2.0) / 2, 1e-6);
}

TEST(Closeness, LogitsThatDifferByAConstantAreTheSame) {
  Closeness closeness;
  closeness.add(std::vector<std::int32_t>{0}, kEven, std::vector<float>{40, 40});
  EXPECT_NEAR(closeness.figures().mean_kl, 0, 1e-12);
}

TEST(Closeness, CountsTheTopTokenApartWhereTheReferenceIsClear) {
  Closeness closeness;
  const std::vector<float> clear = {2, 1, 0};
  const std::vector<float> near = {1.25F, 1, 0};
  const std::vector<float> other = {0, 1, 0};
  closeness.add(std::vector<std::int32_t>{0}, clear, clear);
  closeness.add(std::vector<std::int32_t>{0}, near, other);
  EXPECT_EQ(closeness.figures().clear_positions, 1U);
  EXPECT_EQ(closeness.figures().clear_top_differs, 0U);
  closeness.add(std::vector<std::int32_t>{0}, clear, other);
  EXPECT_EQ(closeness.figures().clear_positions, 2U);
  EXPECT_EQ(closeness.figures().clear_top_differs, 1U);
  EXPECT_EQ(closeness.figures().positions, 3U);
  EXPECT_NEAR(closeness.figures().top_equal, 1.0 / 3, 1e-12);
}

}  // namespace
}  // namespace airlock::testing
