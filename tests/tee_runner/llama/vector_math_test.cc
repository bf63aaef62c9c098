#include "tee_runner/llama/vector_math.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <vector>

namespace airlock {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Each test runs with each of the instruction sets that this CPU and this program have.
class EachTarget : public testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override { hwy::SetSupportedTargetsForTest(GetParam()); }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
};

INSTANTIATE_TEST_SUITE_P(VectorMath, EachTarget,
                         testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& param) { return hwy::TargetName(param.param); });

std::vector<float> random_floats(std::size_t count, unsigned seed, float spread = 1.0F) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

TEST_P(EachTarget, exp_stays_within_two_ulp) {
  std::vector<float> x;
  for (double at = -87.3; at < 88.7; at += 0.00037) x.push_back(static_cast<float>(at));
  std::vector<float> y(x.size());
  vector_math().exp(x.data(), y.data(), x.size());
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    const float nearest = static_cast<float>(exact);
    const double ulp =
        static_cast<double>(std::nextafter(nearest, kInfinity)) - static_cast<double>(nearest);
    worst = std::max(worst, std::abs(static_cast<double>(y[i]) - exact) / ulp);
  }
  EXPECT_LE(worst, 2.0);
}

TEST_P(EachTarget, exp_keeps_the_ends_of_the_range) {
  const float x[] = {-kInfinity, -1e30F, -87.4F, 0.0F, 88.72283F, 89.0F, kInfinity, std::nanf("")};
  float y[8];
  vector_math().exp(x, y, 8);
  EXPECT_EQ(y[0], 0.0F);
  EXPECT_EQ(y[1], 0.0F);
  EXPECT_EQ(y[2], 0.0F);
  EXPECT_EQ(y[3], 1.0F);
  EXPECT_TRUE(std::isfinite(y[4]));
  EXPECT_EQ(y[5], kInfinity);
  EXPECT_EQ(y[6], kInfinity);
  EXPECT_TRUE(std::isnan(y[7]));
}

/// What each function makes of the same numbers; no count is a multiple of any vector's width.
std::vector<float> results() {
  const VectorMath& math = vector_math();
  std::vector<float> all;
  const auto keep = [&](const float* values, std::size_t count) {
    all.insert(all.end(), values, values + count);
  };
  const std::size_t count = 1009;
  const std::vector<float> x = random_floats(count, 1, 3.0F);
  const std::vector<float> y = random_floats(count, 2);
  std::vector<float> out(round_up(count, kSumLanes));
  math.exp(x.data(), out.data(), count);
  keep(out.data(), count);
  math.rms_norm(x.data(), y.data(), 1e-5F, out.data(), count);
  keep(out.data(), count);
  std::copy(x.begin(), x.end(), out.begin());
  math.softmax(out.data(), count, 0.3F);
  keep(out.data(), count);
  std::copy(x.begin(), x.end(), out.begin());
  math.silu_multiply(out.data(), y.data(), count);
  keep(out.data(), count);
  std::copy(x.begin(), x.end(), out.begin());
  math.add(y.data(), out.data(), count);
  keep(out.data(), count);
  const std::size_t half = count / 2;
  math.rotate_head(x.data(), y.data(), y.data() + half, half, out.data());
  keep(out.data(), 2 * half);

  constexpr std::size_t kDim = 36, kPitch = 64;
  const std::vector<float> queries = random_floats(QueryBlock::kRows * kPitch, 3);
  const std::vector<float> keys = random_floats(3 * kDim * QueryBlock::kKeys, 4);
  const std::vector<float> values = random_floats(3 * QueryBlock::kKeys * kPitch, 5);
  std::vector<float> output(QueryBlock::kRows * kPitch);
  QueryBlock block;
  block.queries = queries.data();
  block.output = output.data();
  block.head_dim = kDim;
  block.pitch = kPitch;
  // The third block of keys is before some of the queries only.
  block.first_position = 2 * QueryBlock::kKeys - 10;
  block.scale = 0.2F;
  std::fill_n(block.peak, QueryBlock::kRows, -kInfinity);
  std::fill_n(block.total, QueryBlock::kRows, 0.0F);
  for (std::size_t step = 0; step < 3; ++step) {
    math.attend(block, step * QueryBlock::kKeys, &keys[step * kDim * QueryBlock::kKeys],
                &values[step * QueryBlock::kKeys * kPitch]);
  }
  keep(output.data(), output.size());
  keep(block.total, QueryBlock::kRows);
  return all;
}

TEST(VectorMath, targets_agree_and_in_every_bit_where_both_have_fma_or_both_have_not) {
  std::map<bool, std::vector<float>> of_first;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    const std::vector<float> here = results();
    // Better targets have smaller numbers. On ARM all that we compile for have FMA.
    const auto [first, is_first] = of_first.try_emplace(target <= HWY_AVX2, here);
    ASSERT_EQ(here.size(), first->second.size());
    EXPECT_EQ(std::memcmp(here.data(), first->second.data(), here.size() * sizeof(float)), 0)
        << hwy::TargetName(target);
    for (std::size_t i = 0; i < here.size(); ++i) {
      const float other = of_first.begin()->second[i];
      ASSERT_NEAR(here[i], other, std::abs(other) * 1e-5F + 1e-6F)
          << hwy::TargetName(target) << ", element " << i;
    }
  }
  hwy::SetSupportedTargetsForTest(0);
}

}  // namespace
}  // namespace airlock
