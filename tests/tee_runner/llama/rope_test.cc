#include "tee_runner/llama/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "tee_runner/llama/vector_math.h"

namespace airlock {
namespace {

LlamaConfig config_of(std::int64_t head_dim, double theta) {
  LlamaConfig config;
  config.dims.head_dim = head_dim;
  config.rope_theta = theta;
  return config;
}

TEST(Rope, frequencies_follow_the_formula) {
  const std::vector<float> f = rope_inverse_frequencies(config_of(64, 10000.0));
  ASSERT_EQ(f.size(), 32U);
  EXPECT_EQ(f[0], 1.0F);
  for (std::size_t i = 0; i < f.size(); ++i) {
    const double expected = std::pow(10000.0, -2.0 * static_cast<double>(i) / 64.0);
    EXPECT_NEAR(static_cast<double>(f[i]), expected, expected * 2e-7);
  }
}

TEST(Rope, linear_scaling_divides_every_frequency) {
  LlamaConfig config = config_of(32, 10000.0);
  const std::vector<float> plain = rope_inverse_frequencies(config);
  config.rope_scaling = {RopeScaling::Type::kLinear, 4.0, 1.0, 4.0, 8192};
  const std::vector<float> scaled = rope_inverse_frequencies(config);
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(scaled[i], plain[i] / 4.0F);
}

TEST(Rope, llama3_scaling_keeps_high_divides_low_and_blends_between) {
  LlamaConfig config = config_of(128, 500000.0);
  const std::vector<float> plain = rope_inverse_frequencies(config);
  config.rope_scaling = {RopeScaling::Type::kLlama3, 8.0, 1.0, 4.0, 8192};
  const std::vector<float> scaled = rope_inverse_frequencies(config);
  int kept = 0, divided = 0, blended = 0;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    const double f = static_cast<double>(plain[i]);
    const double wavelength = 2 * std::numbers::pi / f;
    double expected = f;
    if (wavelength > 8192.0) {
      expected = f / 8, ++divided;
    } else if (wavelength < 2048.0) {
      ++kept;
    } else {
      const double smooth = (8192.0 / wavelength - 1) / 3;
      expected = (1 - smooth) * f / 8 + smooth * f, ++blended;
    }
    EXPECT_NEAR(static_cast<double>(scaled[i]), expected, expected * 1e-6);
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(divided, 0);
  EXPECT_GT(blended, 0);
}

TEST(Rope, table_holds_cosine_and_sine_of_position_times_frequency) {
  const LlamaConfig config = config_of(16, 10000.0);
  RopeTable table;
  for (const std::int64_t count : {1, 18, 18, 300, 5}) extend_rope_table(config, count, table);
  ASSERT_EQ(table.cos.size(), 300U * 8);
  const std::vector<float> f = rope_inverse_frequencies(config);
  for (std::size_t position : {0U, 1U, 17U, 299U}) {
    for (std::size_t i = 0; i < 8; ++i) {
      const double angle = static_cast<double>(static_cast<float>(position) * f[i]);
      EXPECT_NEAR(static_cast<double>(table.cos[position * 8 + i]), std::cos(angle), 1e-7);
      EXPECT_NEAR(static_cast<double>(table.sin[position * 8 + i]), std::sin(angle), 1e-7);
    }
  }
}

TEST(Rope, rotation_pairs_an_element_with_the_one_half_a_head_away) {
  const float in[] = {1.0F, 2.0F, 3.0F, 4.0F};
  const float cos[] = {0.0F, 0.6F};
  const float sin[] = {1.0F, 0.8F};
  float out[4];
  vector_math().rotate_head(in, cos, sin, 2, out);
  EXPECT_FLOAT_EQ(out[0], -3.0F);
  EXPECT_FLOAT_EQ(out[1], 2.0F * 0.6F - 4.0F * 0.8F);
  EXPECT_FLOAT_EQ(out[2], 1.0F);
  EXPECT_FLOAT_EQ(out[3], 4.0F * 0.6F + 2.0F * 0.8F);
}

}  // namespace
}  // namespace airlock
