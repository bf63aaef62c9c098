#include "runtime/cpu/int_product.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/cpu/int8_weights_held.h"
#include "runtime/cpu/int_product_f64.h"
#include "tests/support/golden_otp.h"
#include "tests/support/int8_copy.h"

namespace airlock {
namespace {

using testing::read_golden_npy;
using testing::times_int8;

using Words = std::vector<std::uint32_t>;
using Bytes = std::vector<std::int8_t>;

std::shared_ptr<HeldWeight> hold(const dnnl::engine& engine, const Int8Layouts& layouts,
                                 const Bytes& w, std::int64_t k) {
  const auto n = static_cast<std::int64_t>(w.size()) / k;
  auto weight = make_int8_room(layouts, {n, k}).value();
  pack_int8(engine, *weight, 0, n, w);
  return weight;
}

Int8Layouts::Shapes panels(std::int64_t k, std::int64_t n) {
  Int8Layouts::Shapes shapes;
  if (n >= kPanelColumns) shapes.push_back({k, kPanelColumns});
  if (n % kPanelColumns != 0) shapes.push_back({k, n % kPanelColumns});
  return shapes;
}

/// What this machine's way gives.
Words multiply(const Words& x, const Bytes& w, std::int64_t k, Int8Way* way = nullptr) {
  const onednn::OneThread alone;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const auto n = static_cast<std::int64_t>(w.size()) / k;
  const auto rows = static_cast<std::int64_t>(x.size()) / k;
  const Int8Layouts layouts(engine, panels(k, n));
  if (way != nullptr) *way = layouts.way();
  const auto weight = hold(engine, layouts, w, k);
  Words result(static_cast<std::size_t>(rows * n));
  auto* const to = reinterpret_cast<std::byte*>(result.data());
  const auto run_all = [&](const auto& product) {
    std::vector<std::byte> memory(product.memory_bytes() + 64);
    void* at = memory.data();
    std::size_t room = memory.size();
    auto* aligned = static_cast<std::byte*>(std::align(64, product.memory_bytes(), at, room));
    for (std::size_t piece = 0; piece < product.piece_count(); ++piece)
      product.run(piece, 0, aligned, stream);
  };
  if (layouts.way() == Int8Way::kF64) {
    run_all(IntProductF64(rows, x.data(), *weight, to));
    return result;
  }
  std::vector<std::uint8_t> digits;
  const auto width = static_cast<std::size_t>(k);
  for (std::size_t row = 0; row < x.size(); row += width)
    digits.push_back(static_cast<std::uint8_t>(digits_for(std::span(x).subspan(row, width))));
  const DigitRows digit_rows(digits, layouts.least_digit_rows(), IntProduct::most_digit_rows(k));
  Bytes split(static_cast<std::size_t>(digit_rows.digit_rows * k));
  for (const DigitRows::Group& group : digit_rows.groups) {
    auto* at = split.data() + group.first_digit_row * k;
    for (std::int64_t row = group.first_row; row < group.first_row + group.rows; ++row) {
      const auto index = static_cast<std::size_t>(row);
      split_digits(std::span(x).subspan(index * width, width), digits[index], at);
      at += digits[index] * k;
    }
  }
  onednn::ProductCache cache(engine, dnnl::memory::data_type::s8, 1);
  run_all(IntProduct(cache, digit_rows, split.data(), *weight, to));
  return result;
}

/// By fp64, whatever this machine's way is.
Words multiply_f64(const Words& x, const Bytes& w, std::int64_t k) {
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  HeldWeight weight;
  weight.k = k;
  weight.n = static_cast<std::int64_t>(w.size()) / k;
  weight.panel_bytes = static_cast<std::size_t>(kPanelColumns * k);
  Bytes rows = w;
  weight.data = reinterpret_cast<std::byte*>(rows.data());
  Words result(x.size() / static_cast<std::size_t>(k) * static_cast<std::size_t>(weight.n));
  const IntProductF64 product(static_cast<std::int64_t>(x.size()) / k, x.data(), weight,
                              reinterpret_cast<std::byte*>(result.data()));
  std::vector<double> memory(product.memory_bytes() / sizeof(double) + 1);
  for (std::size_t piece = 0; piece < product.piece_count(); ++piece)
    product.run(piece, 0, reinterpret_cast<std::byte*>(memory.data()), stream);
  return result;
}

Bytes extreme_weights(std::int64_t n, std::int64_t k) {
  std::mt19937_64 random(5);
  Bytes w;
  for (std::int64_t row = 0; row < n; ++row) {
    for (std::int64_t i = 0; i < k; ++i) {
      const auto any = static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
      const std::int8_t turns = i % 2 == 0 ? 127 : -127;
      const std::array<std::int8_t, 4> choices = {any, 127, -127, turns};
      w.push_back(choices[static_cast<std::size_t>(row % 4)]);
    }
  }
  return w;
}

Words extreme_words(std::int64_t rows, std::int64_t k) {
  std::mt19937_64 random(6);
  Words x;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < k; ++i) {
      const auto any = static_cast<std::uint32_t>(random());
      const std::array<std::uint32_t, 5> choices = {any, 0x80000000U, 0x7fffffffU, 0x7f7f7f7fU,
                                                    i % 2 == 0 ? 0x7f7f7f7fU : 0x80808080U};
      x.push_back(choices[static_cast<std::size_t>(row % 5)]);
    }
  }
  return x;
}

TEST(IntDigits, are_balanced_and_add_up) {
  const Words x = extreme_words(5, 1000);
  Bytes digits(4 * x.size());
  split_digits(x, 4, digits.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    std::int64_t sum = 0;
    for (std::size_t digit = 4; digit-- > 0;) sum = sum * 256 + digits[digit * x.size() + i];
    ASSERT_EQ(static_cast<std::uint32_t>(static_cast<std::uint64_t>(sum)), x[i]);
  }
}

TEST(IntDigits, are_as_few_as_hold_every_word_of_a_row) {
  struct Case {
    std::int32_t value;
    int digits;
  };
  for (const Case& c :
       {Case{0, 1}, Case{127, 1}, Case{-128, 1}, Case{128, 2}, Case{-129, 2}, Case{32639, 2},
        Case{-32896, 2}, Case{32640, 4}, Case{-32897, 4}, Case{INT32_MIN, 4}, Case{INT32_MAX, 4}}) {
    SCOPED_TRACE(c.value);
    const Words row = {0, static_cast<std::uint32_t>(c.value), 1};
    EXPECT_EQ(digits_for(row), c.digits);
    Bytes digits(static_cast<std::size_t>(c.digits) * row.size());
    split_digits(row, c.digits, digits.data());
    std::int64_t sum = 0;
    for (int digit = c.digits; digit-- > 0;)
      sum = sum * 256 + digits[static_cast<std::size_t>(digit) * row.size() + 1];
    EXPECT_EQ(static_cast<std::int32_t>(static_cast<std::uint32_t>(sum)), c.value);
  }
}

TEST(DigitRows, keep_the_digits_of_a_word_in_one_group) {
  const DigitRows rows({4, 2, 1, 4, 4, 2, 4, 4, 4, 4, 4, 4, 4}, 1, 32);
  std::int64_t next = 0;
  std::int64_t digit_rows = 0;
  for (const DigitRows::Group& group : rows.groups) {
    EXPECT_EQ(group.first_row, next);
    EXPECT_EQ(group.first_digit_row, digit_rows);
    EXPECT_LE(group.digit_rows, 32);
    std::int64_t digits = 0;
    for (std::int64_t row = 0; row < group.rows; ++row)
      digits += rows.digits[static_cast<std::size_t>(group.first_row + row)];
    EXPECT_LE(digits, group.digit_rows);
    next += group.rows;
    digit_rows += group.digit_rows;
  }
  EXPECT_EQ(next, 13);
  EXPECT_EQ(digit_rows, rows.digit_rows);
}

TEST(IntProduct, is_exact_on_this_machine) {
  for (const std::int64_t k : {1, 3, 63, 64, 65, 777, 4096, 8192, 33024}) {
    SCOPED_TRACE(k);
    const Bytes w = extreme_weights(7, k);
    const Words x = extreme_words(11, k);
    EXPECT_TRUE(multiply(x, w, k) == times_int8(x, w, static_cast<std::size_t>(k)));
  }
}

TEST(IntProductF64, is_exact_where_one_sum_would_not_be) {
  for (const std::int64_t k : {1, 4095, 4096, 4097, 33025, 40000}) {
    SCOPED_TRACE(k);
    const Bytes w = extreme_weights(5, k);
    const Words x = extreme_words(5, k);
    EXPECT_TRUE(multiply_f64(x, w, k) == times_int8(x, w, static_cast<std::size_t>(k)));
  }
}

TEST(IntProductF64, takes_more_rows_and_columns_than_a_piece_has) {
  for (const std::int64_t n : {64, 300, 513}) {
    SCOPED_TRACE(n);
    const Bytes w = extreme_weights(n, 31);
    const Words x = extreme_words(131, 31);
    EXPECT_TRUE(multiply_f64(x, w, 31) == times_int8(x, w, 31));
  }
}

// The trial's word is what decides: where the machine is told to lack VNNI, oneDNN's sums saturate.
TEST(Int8Layouts, take_fp64_where_sums_saturate) {
  const char* const told = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (told == nullptr || std::string_view(told).ends_with("VNNI"))
    GTEST_SKIP() << "ONEDNN_MAX_CPU_ISA does not take VNNI away";
  Int8Way way{};
  const Words x = extreme_words(4, 512);
  const Bytes w = extreme_weights(300, 512);
  EXPECT_TRUE(multiply(x, w, 512, &way) == times_int8(x, w, 512));
  EXPECT_EQ(way, Int8Way::kF64) << told;
}

TEST(IntProduct, gives_the_golden_answers) {
  SKIP_WITHOUT_GOLDEN_OTP();
  struct Case {
    const char* name;
    std::int64_t k;
  };
  for (const Case& c : {Case{"a", 72}, Case{"b", 8192}}) {
    SCOPED_TRACE(c.name);
    const std::string folder = std::string(c.name) + "/";
    const auto w = read_golden_npy<std::int8_t>(folder + "w_i8");
    const auto words = [&](const char* array) {
      return read_golden_npy<std::uint32_t>(folder + array);
    };
    ASSERT_FALSE(w.empty());
    struct Pair {
      const char* x;
      const char* y;
    };
    // The masked words, the pads, and the integers themselves.
    for (const Pair& pair : {Pair{"q32_xm_u32", "q32_ym_u32"}, Pair{"q32_r_u32", "q32_rw_u32"},
                             Pair{"q32_x_i32", "q32_y_i32"}}) {
      SCOPED_TRACE(pair.x);
      const Words x = words(pair.x);
      const Words want = words(pair.y);
      ASSERT_FALSE(x.empty());
      ASSERT_FALSE(want.empty());
      EXPECT_TRUE(multiply(x, w, c.k) == want);
      EXPECT_TRUE(multiply_f64(x, w, c.k) == want);
    }
    const auto limbs = read_golden_npy<std::int8_t>(folder + "q32_limbs_i8");
    const Words masked = words("q32_xm_u32");
    Bytes digits(limbs.size());
    split_digits(masked, 4, digits.data());
    EXPECT_EQ(digits, limbs);
  }
}

}  // namespace
}  // namespace airlock
