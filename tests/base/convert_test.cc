#include "base/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace airlock {
namespace {

/// A 16-bit float format, computed slowly and another way than base/convert.cc: with doubles, which
/// hold every value.
struct Format {
  DType dtype;
  int exponent_bits;
  int mantissa_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  std::uint16_t infinity() const {
    return static_cast<std::uint16_t>(((1U << exponent_bits) - 1) << mantissa_bits);
  }
  bool is_nan(std::uint16_t bits) const { return (bits & 0x7fffU) > infinity(); }

  double decode(std::uint16_t bits) const {
    const int magnitude = bits & 0x7fff;
    const int exponent = magnitude >> mantissa_bits;
    const int mantissa = magnitude & ((1 << mantissa_bits) - 1);
    double value = 0;
    if (magnitude == infinity()) {
      value = std::numeric_limits<double>::infinity();
    } else if (exponent == 0) {
      value = std::ldexp(mantissa, 1 - bias() - mantissa_bits);
    } else {
      value = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias() - mantissa_bits);
    }
    return (bits & 0x8000U) != 0 ? -value : value;
  }

  /// Nearest value, ties to even. Not for NaN.
  std::uint16_t encode(float value) const {
    const std::uint16_t sign = std::signbit(value) ? 0x8000U : 0U;
    const double magnitude = std::fabs(static_cast<double>(value));
    if (std::isinf(magnitude)) return static_cast<std::uint16_t>(sign | infinity());
    const int exponent = magnitude == 0 ? 1 - bias() : std::max(std::ilogb(magnitude), 1 - bias());
    // In units of the last place; nearbyint() rounds ties to even. A carry runs into the exponent
    // as it must.
    const auto units =
        static_cast<long>(std::nearbyint(std::ldexp(magnitude, mantissa_bits - exponent)));
    const long bits = units + (static_cast<long>(exponent + bias() - 1) << mantissa_bits);
    return static_cast<std::uint16_t>(sign | std::min<long>(bits, infinity()));
  }
};

constexpr Format kHalf{DType::kF16, 5, 10};
constexpr Format kBrain{DType::kBF16, 8, 7};

class Convert : public testing::TestWithParam<Format> {
 protected:
  static std::vector<std::uint16_t> all_bits() {
    std::vector<std::uint16_t> bits(65536);
    for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
    return bits;
  }
  std::vector<float> load(const std::vector<std::uint16_t>& bits) const {
    std::vector<float> values(bits.size());
    load_f32(GetParam().dtype, reinterpret_cast<const std::byte*>(bits.data()), values.data(),
             bits.size());
    return values;
  }
  std::vector<std::uint16_t> store(const std::vector<float>& values) const {
    std::vector<std::uint16_t> bits(values.size());
    store_f32(GetParam().dtype, values.data(), reinterpret_cast<std::byte*>(bits.data()),
              values.size());
    return bits;
  }
  void expect_as_reference(const std::vector<float>& values) const {
    const std::vector<std::uint16_t> bits = store(values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (std::isnan(values[i])) {
        ASSERT_TRUE(GetParam().is_nan(bits[i])) << i;
      } else {
        ASSERT_EQ(bits[i], GetParam().encode(values[i])) << std::hexfloat << values[i];
      }
    }
  }
};

TEST_P(Convert, each_of_the_65536_patterns_has_its_value) {
  const std::vector<std::uint16_t> bits = all_bits();
  const std::vector<float> values = load(bits);
  for (std::size_t i = 0; i < bits.size(); ++i) {
    if (GetParam().is_nan(bits[i])) {
      ASSERT_TRUE(std::isnan(values[i])) << i;
    } else {
      ASSERT_EQ(static_cast<double>(values[i]), GetParam().decode(bits[i])) << i;
      ASSERT_EQ(std::signbit(values[i]), (bits[i] & 0x8000U) != 0) << i;
    }
  }
}

TEST_P(Convert, each_of_the_65536_patterns_survives_the_way_there_and_back) {
  const std::vector<std::uint16_t> bits = all_bits();
  const std::vector<std::uint16_t> back = store(load(bits));
  for (std::size_t i = 0; i < bits.size(); ++i) {
    if (GetParam().is_nan(bits[i])) {
      ASSERT_TRUE(GetParam().is_nan(back[i])) << i;
    } else {
      ASSERT_EQ(back[i], bits[i]) << i;
    }
  }
}

TEST_P(Convert, halfway_between_two_neighbours_goes_to_the_even_one) {
  std::vector<float> values;
  for (std::uint16_t bits = 0; bits + 1U < GetParam().infinity(); ++bits) {
    const double low = GetParam().decode(bits);
    const double high = GetParam().decode(static_cast<std::uint16_t>(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    for (float value : {middle, std::nextafter(middle, 0.0F), std::nextafter(middle, INFINITY)}) {
      values.push_back(value);
      values.push_back(-value);
    }
  }
  expect_as_reference(values);
}

TEST_P(Convert, random_bits_round_as_the_slow_reference) {
  std::mt19937 random(1);
  std::vector<float> values(1 << 20);
  for (float& value : values) value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
  expect_as_reference(values);
}

TEST_P(Convert, the_edge_of_the_range_becomes_infinity_only_from_half_a_step_on) {
  const Format& format = GetParam();
  const auto top = static_cast<std::uint16_t>(format.infinity() - 1);
  const double step = format.decode(top) - format.decode(static_cast<std::uint16_t>(top - 1));
  const auto edge = static_cast<float>(format.decode(top) + step / 2);
  const std::vector<std::uint16_t> bits =
      store({std::nextafter(edge, 0.0F), edge, INFINITY, -INFINITY});
  EXPECT_EQ(bits[0], top);
  EXPECT_EQ(bits[1], format.infinity());
  EXPECT_EQ(bits[2], format.infinity());
  EXPECT_EQ(bits[3], format.infinity() | 0x8000U);
}

TEST_P(Convert, a_value_has_the_same_bits_at_every_place_of_a_vector) {
  std::mt19937 random(2);
  std::vector<float> values(131);
  for (float& value : values) value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
  const std::vector<std::uint16_t> together = store(values);
  for (std::size_t i = 0; i < values.size(); ++i)
    ASSERT_EQ(store({values[i]})[0], together[i]) << i;
}

TEST_P(Convert, between_tensors_of_two_types_rounds_once) {
  const std::size_t count = 3000;  // more than one block
  Tensor from(TensorDesc{DType::kF32, Shape{static_cast<std::int64_t>(count)}});
  Tensor to(TensorDesc{GetParam().dtype, from.desc().shape});
  Tensor back(from.desc());
  for (std::size_t i = 0; i < count; ++i) from.as<float>()[i] = std::sin(static_cast<float>(i));
  convert(from.view(), to.mutable_view());
  convert(to.view(), back.mutable_view());
  for (std::size_t i = 0; i < count; ++i) {
    ASSERT_EQ(to.as<std::uint16_t>()[i], GetParam().encode(from.as<float>()[i])) << i;
    ASSERT_EQ(static_cast<double>(back.as<float>()[i]),
              GetParam().decode(to.as<std::uint16_t>()[i]))
        << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, Convert, testing::Values(kHalf, kBrain), [](const auto& format) {
  return std::string(name_of(format.param.dtype));
});

TEST(ConvertSameType, copies_the_bits) {
  Tensor from(TensorDesc{DType::kBF16, Shape{4}});
  from.as<std::uint16_t>()[2] = 0x7f81;  // a signalling NaN stays as it is
  Tensor to(from.desc());
  convert(from.view(), to.mutable_view());
  EXPECT_EQ(to.as<std::uint16_t>()[2], 0x7f81);
}

}  // namespace
}  // namespace airlock
