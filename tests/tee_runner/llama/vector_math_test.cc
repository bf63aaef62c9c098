#include "tee_runner/llama/vector_math.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
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

TEST(VectorMath, targets_agree_in_silu_of_bf16_where_both_have_fma_or_both_have_not) {
  std::map<bool, std::vector<std::uint16_t>> of_first;
  const std::vector<std::uint16_t> gate = rounded(random_floats(100'003, 11, 9.0F));
  const std::vector<std::uint16_t> up = rounded(random_floats(gate.size(), 12));
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    std::vector<std::uint16_t> here(gate.size());
    vector_math().silu_multiply_bf16(gate.data(), up.data(), here.data(), here.size());
    const auto [first, is_first] = of_first.try_emplace(target <= HWY_AVX2, here);
    EXPECT_EQ(here, first->second) << hwy::TargetName(target);
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST_P(EachTarget, finishes_a_row_in_either_type) {
  constexpr std::size_t kDim = 67, kPitch = 96;
  std::vector<float> output = random_floats(QueryBlock::kRows * kPitch, 13);
  QueryBlock block;
  block.output = output.data();
  block.head_dim = kDim;
  block.pitch = kPitch;
  const std::size_t row = 3;
  double sum = 0;
  for (std::size_t lane = 0; lane < kSumLanes; ++lane) {
    block.total[row * kSumLanes + lane] = 0.1F + static_cast<float>(lane);
    sum += static_cast<double>(block.total[row * kSumLanes + lane]);
  }
  std::vector<float> out(kDim);
  std::vector<std::uint16_t> halves(kDim);
  vector_math().finish(block, row, out.data());
  vector_math().finish_bf16(block, row, halves.data());
  for (std::size_t i = 0; i < kDim; ++i) {
    const double expected = static_cast<double>(output[row * kPitch + i]) / sum;
    EXPECT_NEAR(static_cast<double>(out[i]), expected, std::abs(expected) * 1e-6);
  }
  EXPECT_EQ(halves, rounded(out));
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

TEST_P(EachTarget, has_in_bf16_the_bits_of_widening_and_rounding_once) {
  const VectorMath& math = vector_math();
  const std::size_t count = 1009;
  const std::vector<std::uint16_t> delta = random_halves(count, 1);
  std::vector<std::uint16_t> halves(count);
  std::vector<float> floats(count);

  const std::vector<float> x = random_floats(count, 3, 2.0F);
  const std::vector<float> weight = random_floats(count, 4);
  math.rms_norm(x.data(), weight.data(), 1e-5F, floats.data(), count);
  math.rms_norm_bf16(x.data(), weight.data(), 1e-5F, halves.data(), count);
  EXPECT_EQ(halves, rounded(floats));

  std::vector<float> sum = x;
  floats = x;
  math.add(widened(delta).data(), floats.data(), count);
  math.add_bf16(delta.data(), sum.data(), count);
  EXPECT_EQ(std::memcmp(sum.data(), floats.data(), count * sizeof(float)), 0);

  const std::size_t half = count / 2;
  std::vector<float> rotated(count);
  math.rotate_head(widened(delta).data(), x.data(), weight.data(), half, floats.data());
  math.rotate_head_bf16(delta.data(), x.data(), weight.data(), half, rotated.data());
  EXPECT_EQ(std::memcmp(rotated.data(), floats.data(), 2 * half * sizeof(float)), 0);
}

/// Every bf16.
std::vector<std::uint16_t> all_halves() {
  std::vector<std::uint16_t> halves(std::size_t{1} << 16);
  std::iota(halves.begin(), halves.end(), std::uint16_t{0});
  return halves;
}

/// A unit in the last place of a bf16 of this size.
double bf16_unit(double value) { return std::ldexp(1.0, std::ilogb(value) - 7); }

TEST_P(EachTarget, has_silu_in_bf16_of_every_gate_nearly_as_near_as_rounding) {
  const std::vector<std::uint16_t> gates = all_halves();
  const std::vector<float> x = widened(gates);
  double worst = 0;
  for (const float factor : {1.0F, -1.0078125F, 1.4140625F, 1.9921875F, 3e-3F, 700.0F}) {
    const std::vector<std::uint16_t> up(gates.size(), rounded({factor})[0]);
    const float exact_factor = widened(up)[0];
    std::vector<std::uint16_t> out(gates.size());
    vector_math().silu_multiply_bf16(gates.data(), up.data(), out.data(), out.size());
    const std::vector<float> got = widened(out);
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double gate = static_cast<double>(x[i]);
      const double exact = gate / (1 + std::exp(-gate)) * static_cast<double>(exact_factor);
      if (std::isnan(gate) || gate == -std::numeric_limits<double>::infinity()) {
        ASSERT_TRUE(std::isnan(got[i])) << "gate " << x[i];
      } else if (gate < -88.72) {
        ASSERT_EQ(got[i], 0.0F) << "gate " << x[i];
      } else if (std::isinf(gate) || std::abs(exact) >= 3.3961775e38) {
        ASSERT_TRUE(std::isinf(got[i]) && (got[i] > 0) == (exact > 0)) << "gate " << x[i];
      } else if (std::abs(gate) > 3e-36 && std::abs(exact) > 3e-36) {
        worst = std::max(worst, std::abs(static_cast<double>(got[i]) - exact) / bf16_unit(exact));
      } else {
        ASSERT_NEAR(static_cast<double>(got[i]), exact, std::abs(exact) / 256 + 1e-37)
            << "gate " << x[i];
      }
    }
  }
  EXPECT_LE(worst, 0.505) << worst;
}

TEST_P(EachTarget, has_silu_in_bf16_the_same_at_every_place_and_of_every_up) {
  const std::vector<std::uint16_t> all = all_halves();
  const VectorMath& math = vector_math();
  for (const float gate : {0.0F, -3.0F, 20.0F, kInfinity, -kInfinity, std::nanf("")}) {
    const std::vector<std::uint16_t> gates(all.size(), rounded({gate})[0]);
    std::vector<std::uint16_t> out(all.size()), alone(all.size());
    math.silu_multiply_bf16(gates.data(), all.data(), out.data(), out.size());
    for (std::size_t i = 0; i < all.size(); ++i)
      math.silu_multiply_bf16(&gates[i], &all[i], &alone[i], 1);
    const std::vector<float> up = widened(all), got = widened(out), each = widened(alone);
    for (std::size_t i = 0; i < all.size(); ++i) {
      ASSERT_TRUE(out[i] == alone[i] || (std::isnan(got[i]) && std::isnan(each[i])))
          << gate << " times " << up[i];
      ASSERT_TRUE(std::isnan(got[i]) || !std::isnan(up[i])) << gate;
    }
  }
}

TEST_P(EachTarget, adds_and_normalises_with_the_bits_of_one_after_the_other) {
  const VectorMath& math = vector_math();
  for (const std::size_t count : {1, 15, 16, 64, 1009}) {
    const std::vector<std::uint16_t> delta = rounded(random_floats(count, 6));
    const std::vector<float> weight = random_floats(count, 7);
    std::vector<float> apart = random_floats(count, 8, 2.0F), at_once = apart;
    std::vector<std::uint16_t> expected(count), out(count);
    math.add_bf16(delta.data(), apart.data(), count);
    math.rms_norm_bf16(apart.data(), weight.data(), 1e-5F, expected.data(), count);
    math.add_rms_norm_bf16(delta.data(), at_once.data(), weight.data(), 1e-5F, out.data(), count);
    EXPECT_EQ(out, expected) << count;
    EXPECT_EQ(std::memcmp(at_once.data(), apart.data(), count * sizeof(float)), 0) << count;
  }
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
