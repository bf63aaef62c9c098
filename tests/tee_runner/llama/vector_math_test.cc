#include "tee_runner/llama/vector_math.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "base/convert.h"

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

/// Three steps of a block of queries over the same keys and values.
class Attention {
 public:
  static constexpr std::size_t kDim = 68, kPitch = 96, kSteps = 3;
  struct Asked {
    std::size_t first_row = 0;
    std::size_t end_row = QueryBlock::kRows;
    DType cached = DType::kF32;  // keys and values are rounded to bf16 in either
    bool fetches = false;
    std::size_t position_step = 1;
  };
  struct Rows {
    std::vector<float> output;  // [end_row - first_row, kPitch]
    std::vector<float> total;   // [end_row - first_row, kSumLanes]
    bool operator==(const Rows&) const = default;
  };

  Attention() {
    for (std::vector<float>* values : {&keys_, &values_}) {
      std::vector<std::uint16_t>& rounded = values == &keys_ ? rounded_keys_ : rounded_values_;
      rounded.resize(values->size());
      store_f32(DType::kBF16, values->data(), reinterpret_cast<std::byte*>(rounded.data()),
                values->size());
      load_f32(DType::kBF16, reinterpret_cast<const std::byte*>(rounded.data()), values->data(),
               values->size());
    }
  }

  Rows attend(const Asked& asked) const {
    std::vector<float> output(QueryBlock::kRows * kPitch);
    QueryBlock block;
    block.queries = queries_.data();
    block.output = output.data();
    block.head_dim = kDim;
    block.pitch = kPitch;
    // The third block of keys is before some of the queries only.
    block.first_position = 2 * QueryBlock::kKeys - 10;
    block.position_step = asked.position_step;
    block.first_row = asked.first_row;
    block.end_row = asked.end_row;
    block.scale = 0.2F;
    block.begin();
    for (std::size_t step = 0; step < kSteps; ++step) {
      if (asked.cached == DType::kBF16)
        take(block, step, asked.fetches, rounded_keys_, rounded_values_, vector_math().attend_bf16);
      else
        take(block, step, asked.fetches, keys_, values_, vector_math().attend);
    }
    const auto rows_of = [&](const float* values, std::size_t pitch) {
      return std::vector<float>(values + asked.first_row * pitch, values + asked.end_row * pitch);
    };
    return {rows_of(output.data(), kPitch), rows_of(block.total, kSumLanes)};
  }

 private:
  template <typename T, typename Step>
  static void take(QueryBlock& block, std::size_t step, bool fetches, const std::vector<T>& keys,
                   const std::vector<T>& values, const Step& attend) {
    constexpr std::size_t kKeysEach = kDim * QueryBlock::kKeys;
    constexpr std::size_t kValuesEach = QueryBlock::kKeys * kPitch;
    const bool is_followed = fetches && step + 1 < kSteps;
    block.next_keys = is_followed ? &keys[(step + 1) * kKeysEach] : nullptr;
    block.next_values = is_followed ? &values[(step + 1) * kValuesEach] : nullptr;
    attend(block, step * QueryBlock::kKeys, &keys[step * kKeysEach], &values[step * kValuesEach]);
  }

  std::vector<float> queries_ = random_floats(QueryBlock::kRows * kPitch, 3);
  std::vector<float> keys_ = random_floats(kSteps * kDim * QueryBlock::kKeys, 4);
  std::vector<float> values_ = random_floats(kSteps * QueryBlock::kKeys * kPitch, 5);
  std::vector<std::uint16_t> rounded_keys_;
  std::vector<std::uint16_t> rounded_values_;
};

void keep_rows(const Attention::Rows& rows, std::vector<float>& all) {
  all.insert(all.end(), rows.output.begin(), rows.output.end());
  all.insert(all.end(), rows.total.begin(), rows.total.end());
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
  math.silu_multiply(x.data(), y.data(), out.data(), count);
  keep(out.data(), count);
  std::copy(x.begin(), x.end(), out.begin());
  math.add(y.data(), out.data(), count);
  keep(out.data(), count);
  const std::size_t half = count / 2;
  math.rotate_head(x.data(), y.data(), y.data() + half, half, out.data());
  keep(out.data(), 2 * half);

  const Attention attention;
  for (const auto& [first, end] :
       {std::pair<std::size_t, std::size_t>{0, 32}, {0, 4}, {5, 8}, {2, 9}})
    keep_rows(attention.attend({.first_row = first, .end_row = end}), all);
  keep_rows(attention.attend({.end_row = 3, .cached = DType::kBF16, .fetches = true}), all);
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

// An answer's token alone, in company and as part of its prompt: the tile must not show.
TEST_P(EachTarget, gives_a_row_its_bits_among_few_and_among_many) {
  const Attention attention;
  for (const std::size_t position_step : {0, 1}) {
    const Attention::Rows all = attention.attend({.position_step = position_step});
    for (std::size_t first = 0; first < 12; ++first) {
      for (std::size_t end = first + 1; end <= 12; ++end) {
        const Attention::Rows few =
            attention.attend({.first_row = first, .end_row = end, .position_step = position_step});
        const auto of_all =
            std::span(all.output).subspan(first * Attention::kPitch, few.output.size());
        ASSERT_TRUE(std::ranges::equal(few.output, of_all)) << "rows " << first << " to " << end;
        ASSERT_TRUE(std::ranges::equal(
            few.total, std::span(all.total).subspan(first * kSumLanes, few.total.size())));
      }
    }
  }
}

/// Of random floats, with what rounding has to look at among them.
std::vector<std::uint16_t> random_halves(std::size_t count, std::uint64_t seed) {
  std::vector<float> values = random_floats(count, seed, 5.0F);
  const float special[] = {0.0F,          -0.0F, kInfinity, -kInfinity,
                           std::nanf(""), 3e38F, -3e38F,    1e-39F};
  std::copy(std::begin(special), std::end(special), values.begin() + 7);
  std::vector<std::uint16_t> halves(count);
  store_f32(DType::kBF16, values.data(), reinterpret_cast<std::byte*>(halves.data()), count);
  return halves;
}

std::vector<float> widened(const std::vector<std::uint16_t>& halves) {
  std::vector<float> values(halves.size());
  load_f32(DType::kBF16, reinterpret_cast<const std::byte*>(halves.data()), values.data(),
           values.size());
  return values;
}

std::vector<std::uint16_t> rounded(const std::vector<float>& values) {
  std::vector<std::uint16_t> halves(values.size());
  store_f32(DType::kBF16, values.data(), reinterpret_cast<std::byte*>(halves.data()),
            halves.size());
  return halves;
}

TEST_P(EachTarget, has_in_bf16_the_bits_of_widening_and_rounding_once) {
  const VectorMath& math = vector_math();
  const std::size_t count = 1009;
  const std::vector<std::uint16_t> gate = random_halves(count, 1);
  const std::vector<std::uint16_t> up = random_halves(count, 2);
  std::vector<std::uint16_t> halves(count);
  std::vector<float> floats(count);
  math.silu_multiply(widened(gate).data(), widened(up).data(), floats.data(), count);
  math.silu_multiply_bf16(gate.data(), up.data(), halves.data(), count);
  EXPECT_EQ(halves, rounded(floats));

  const std::vector<float> x = random_floats(count, 3, 2.0F);
  const std::vector<float> weight = random_floats(count, 4);
  math.rms_norm(x.data(), weight.data(), 1e-5F, floats.data(), count);
  math.rms_norm_bf16(x.data(), weight.data(), 1e-5F, halves.data(), count);
  EXPECT_EQ(halves, rounded(floats));

  std::vector<float> sum = x;
  floats = x;
  math.add(widened(gate).data(), floats.data(), count);
  math.add_bf16(gate.data(), sum.data(), count);
  EXPECT_EQ(std::memcmp(sum.data(), floats.data(), count * sizeof(float)), 0);
}

TEST_P(EachTarget, widens_keys_of_bf16_exactly_and_fetches_without_an_effect) {
  const Attention attention;
  for (const std::size_t end : {1, 4, 8, 32}) {
    const Attention::Rows plain = attention.attend({.end_row = end});
    for (const DType cached : {DType::kF32, DType::kBF16}) {
      for (const bool fetches : {false, true}) {
        EXPECT_EQ(attention.attend({.end_row = end, .cached = cached, .fetches = fetches}), plain)
            << end << " rows of " << name_of(cached);
      }
    }
  }
}

}  // namespace
}  // namespace airlock
