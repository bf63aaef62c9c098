#include "tee_runner/generate/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "base/mix.h"

namespace airlock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Logits = std::vector<float>;

Sampler sampler(const SamplingSettings& settings, std::size_t vocab) {
  return Sampler::create(settings, static_cast<std::int64_t>(vocab)).value();
}
std::int32_t next(Sampler& from, const Logits& logits) { return from.sample(logits).value().token; }
std::set<std::int32_t> candidates(const SamplingSettings& settings, const Logits& logits) {
  Sampler from = sampler(settings, logits.size());
  (void)next(from, logits);
  return {from.candidates().begin(), from.candidates().end()};
}

/// Numbers from -range to range that look like chance.
Logits logits_of(std::size_t count, std::uint64_t seed, double range) {
  Logits logits(count);
  for (std::size_t i = 0; i < count; ++i) {
    const double unit = static_cast<double>(mix(seed * 1000003 + i + 1) >> 11) * 0x1p-53;
    logits[i] = static_cast<float>((2 * unit - 1) * range);
  }
  return logits;
}

TEST(Sampler, greedy_takes_the_largest_and_of_equal_ones_the_first) {
  Sampler greedy = sampler({}, 4);
  EXPECT_EQ(next(greedy, {-3, 2, 7, 2}), 2);
  EXPECT_EQ(next(greedy, {-3, -1, -2, -1}), 1);
  EXPECT_EQ(next(greedy, {-0.0F, 0.0F, -1, 0.0F}), 0);
  EXPECT_THAT(greedy.candidates(), ElementsAre(0));
}

TEST(Sampler, refuses_what_is_no_number_and_stays_as_it_was) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), kInfinity, -kInfinity}) {
    Sampler from = sampler({.temperature = 1, .seed = 3}, 50);
    Sampler untouched = sampler({.temperature = 1, .seed = 3}, 50);
    Logits logits = logits_of(50, 1, 2);
    const Logits good = logits;
    logits[17] = bad;
    const auto refused = from.sample(logits);
    EXPECT_EQ(refused.status().code(), StatusCode::kProtocolError);
    EXPECT_THAT(refused.status().message(), HasSubstr("the logit of token 17 is "));
    for (int i = 0; i < 20; ++i) EXPECT_EQ(next(from, good), next(untouched, good));
  }
}

TEST(Sampler, refuses_settings_and_prompts_beyond_their_range) {
  EXPECT_EQ(Sampler::create({.top_p = 2}, 4).status().code(), StatusCode::kInvalidInput);
  Sampler from = sampler({}, 4);
  for (const std::int32_t token : {-1, 4}) {
    EXPECT_THAT(from.add_prompt(std::vector{0, token}).message(),
                HasSubstr("is not in the vocabulary of 4"));
  }
}

TEST(Sampler, the_largest_floats_are_numbers_too) {
  constexpr float kMost = std::numeric_limits<float>::max();
  for (const double temperature : {0.0, 1e-300, 1.0, 100.0}) {
    Sampler from = sampler({.temperature = temperature,
                            .top_p = 0.9,
                            .repetition_penalty = 1e-9,
                            .log_probabilities = 1},
                           3);
    ASSERT_TRUE(from.add_prompt(std::vector{0, 2}).ok());
    const auto sampled = from.sample(Logits{-kMost, kMost, kMost});
    ASSERT_TRUE(sampled.ok());
    EXPECT_NE(sampled->token, 0);
    EXPECT_TRUE(std::isfinite(sampled->log_probability));
  }
}

TEST(Sampler, the_smallest_floats_are_numbers_too) {
  constexpr float kLeast = std::numeric_limits<float>::denorm_min();
  EXPECT_THAT(candidates({.temperature = 1, .top_p = 0.5}, {0, -kLeast, kLeast, 0}),
              ElementsAre(0, 2));
  EXPECT_THAT(candidates({.temperature = 1, .top_k = 3}, {0, -kLeast, kLeast, 0}),
              ElementsAre(0, 2, 3));
}

TEST(Sampler, a_low_temperature_leaves_the_likeliest) {
  EXPECT_THAT(candidates({.temperature = 1e-300}, {1, 3, 2, 3}), ElementsAre(1, 3));
  EXPECT_EQ(candidates({.temperature = 100}, {1, 3, 2, 3}).size(), 4u);
}

TEST(Sampler, top_k_keeps_exactly_k_of_equal_ones_the_first) {
  EXPECT_THAT(candidates({.temperature = 1, .top_k = 3}, {1, 2, 5, 2, 2}), ElementsAre(1, 2, 3));
  EXPECT_EQ(candidates({.temperature = 1, .top_k = 9}, {1, 2, 5, 2, 2}).size(), 5u);
  EXPECT_THAT(candidates({.temperature = 1, .top_k = 1}, Logits(70, 0.5F)), ElementsAre(0));
}

TEST(Sampler, top_p_counts_what_top_k_left) {
  // Shares 0.5, 0.25, 0.125, 0.125; of the first two 2/3 and 1/3.
  const Logits logits = {std::log(4.0F), std::log(2.0F), 0, 0};
  EXPECT_THAT(candidates({.temperature = 1, .top_p = 0.6}, logits), ElementsAre(0, 1));
  EXPECT_THAT(candidates({.temperature = 1, .top_k = 2, .top_p = 0.6}, logits), ElementsAre(0));
  EXPECT_THAT(candidates({.temperature = 1, .top_p = 0.8}, logits), ElementsAre(0, 1, 2));
  EXPECT_THAT(candidates({.temperature = 1, .top_p = 1e-12}, logits), ElementsAre(0));
}

TEST(Sampler, min_p_is_a_share_of_the_likeliest) {
  const Logits logits = {0, std::log(0.5F), std::log(0.2F), std::log(0.05F)};
  EXPECT_THAT(candidates({.temperature = 1, .min_p = 0.1}, logits), ElementsAre(0, 1, 2));
  EXPECT_THAT(candidates({.temperature = 1, .min_p = 1}, logits), ElementsAre(0));
  // After temperature: 0.05 is 0.22 of the likeliest at temperature 2.
  EXPECT_EQ(candidates({.temperature = 2, .min_p = 0.1}, logits).size(), 4u);
}

TEST(Sampler, the_repetition_penalty_looks_at_prompt_and_answer) {
  Sampler from = sampler({.repetition_penalty = 2}, 4);
  ASSERT_TRUE(from.add_prompt(std::vector{0, 0, 3}).ok());
  const Logits logits = {3, 2, 1.2F, -1};
  EXPECT_EQ(next(from, logits), 1);  // 1.5, 2, 1.2, -2
  EXPECT_EQ(next(from, logits), 0);  // 1.5, 1, 1.2, -2
  Sampler negative = sampler({.repetition_penalty = 2}, 2);
  ASSERT_TRUE(negative.add_prompt(std::vector{0}).ok());
  EXPECT_EQ(next(negative, {-1, -1.5F}), 1);
}

TEST(Sampler, presence_and_frequency_look_at_the_answer_alone) {
  const Logits logits = {3, 2.5F};
  Sampler presence = sampler({.presence_penalty = 1}, 2);
  ASSERT_TRUE(presence.add_prompt(std::vector{0}).ok());
  EXPECT_EQ(next(presence, logits), 0);
  EXPECT_EQ(next(presence, logits), 1);  // 2, 2.5
  EXPECT_EQ(next(presence, logits), 0);  // 2, 1.5
  EXPECT_EQ(next(presence, logits), 0);  // once, however often

  Sampler frequency = sampler({.frequency_penalty = 0.4}, 2);
  EXPECT_EQ(next(frequency, logits), 0);
  EXPECT_EQ(next(frequency, logits), 0);  // 2.6, 2.5
  EXPECT_EQ(next(frequency, logits), 1);  // 2.2, 2.5
}

TEST(Sampler, log_probabilities_are_of_the_logits_as_they_came) {
  const Logits logits = {1, 3, 2, 3};
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit));
  const auto expected = [&](std::size_t token) {
    return static_cast<double>(logits[token]) - std::log(total);
  };
  for (const double temperature : {0.0, 0.7}) {
    Sampler from = sampler(
        {.temperature = temperature, .repetition_penalty = 3, .seed = 5, .log_probabilities = 3},
        4);
    ASSERT_TRUE(from.add_prompt(std::vector{1}).ok());
    const SampledToken sampled = from.sample(logits).value();
    EXPECT_NEAR(sampled.log_probability, expected(static_cast<std::size_t>(sampled.token)), 1e-6);
    ASSERT_EQ(sampled.top.size(), 3u);
    const std::vector<std::int32_t> order = {1, 3, 2};
    for (std::size_t i = 0; i < order.size(); ++i) {
      EXPECT_EQ(sampled.top[i].token, order[i]);
      EXPECT_NEAR(sampled.top[i].log_probability, expected(static_cast<std::size_t>(order[i])),
                  1e-6);
    }
  }
  Sampler chosen_alone = sampler({.log_probabilities = 0}, 4);
  EXPECT_NEAR(chosen_alone.sample(logits).value().log_probability, expected(1), 1e-6);
  EXPECT_TRUE(chosen_alone.sample(logits).value().top.empty());
}

TEST(Sampler, a_seed_gives_these_tokens_on_every_machine) {
  const Logits logits = logits_of(1000, 7, 3);
  Sampler from = sampler({.temperature = 0.8, .top_k = 200, .top_p = 0.95, .seed = 42}, 1000);
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < 8; ++i) tokens.push_back(next(from, logits));
  EXPECT_THAT(tokens, ElementsAre(593, 184, 187, 50, 986, 258, 306, 183));
  Sampler other = sampler({.temperature = 0.8, .top_k = 200, .top_p = 0.95, .seed = 43}, 1000);
  std::vector<std::int32_t> others;
  for (int i = 0; i < 8; ++i) others.push_back(next(other, logits));
  EXPECT_NE(tokens, others);
}

TEST(Sampler, tokens_come_as_often_as_they_are_likely) {
  const std::vector<double> shares = {0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005};
  Logits logits;
  for (const double share : shares) logits.push_back(static_cast<float>(std::log(share)));
  constexpr int kDraws = 40000;
  for (const std::uint64_t seed : {0, 1, 2}) {
    Sampler from = sampler({.temperature = 1, .seed = seed}, logits.size());
    std::vector<int> counts(shares.size());
    for (int i = 0; i < kDraws; ++i) ++counts[static_cast<std::size_t>(next(from, logits))];
    double chi_squared = 0;
    for (std::size_t i = 0; i < shares.size(); ++i) {
      const double expected = shares[i] * kDraws;
      chi_squared += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    EXPECT_LT(chi_squared, 24.3) << seed;  // 7 degrees: one seed in a thousand
  }
}

/// Scores in order, likeliest first.
std::vector<std::int32_t> ranked(const Logits& logits) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  return order;
}

RC_GTEST_PROP(SamplerProperty, top_p_keeps_the_fewest_that_have_the_share, ()) {
  const auto count = *rc::gen::inRange<std::size_t>(1, 400);
  const double range = *rc::gen::elementOf(std::vector<double>{0, 0.001, 1, 10, 200});
  Logits logits = logits_of(count, *rc::gen::arbitrary<std::uint32_t>(), range);
  if (*rc::gen::arbitrary<bool>())  // with many that are equal
    for (float& logit : logits) logit = std::round(logit);
  const double top_p = 0.001 * *rc::gen::inRange(1, 1000);
  const double temperature = *rc::gen::elementOf(std::vector<double>{0.1, 0.7, 1, 5});

  const auto kept = candidates({.temperature = temperature, .top_p = top_p}, logits);
  const auto order = ranked(logits);
  RC_ASSERT(kept == std::set<std::int32_t>(
                        order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept.size())));
  const double peak = static_cast<double>(logits[static_cast<std::size_t>(order[0])]);
  const auto weight = [&](std::int32_t token) {
    return std::exp((static_cast<double>(logits[static_cast<std::size_t>(token)]) - peak) /
                    temperature);
  };
  double total = 0;
  for (const std::int32_t token : order) total += weight(token);
  double mass = 0;
  for (const std::int32_t token : kept) mass += weight(token);
  const double least = weight(order[kept.size() - 1]);
  constexpr double kRounding = 1e-5;
  RC_ASSERT(mass >= (top_p - kRounding) * total);
  RC_ASSERT(kept.size() == 1 || mass - least <= (top_p + kRounding) * total);
}

RC_GTEST_PROP(SamplerProperty, top_k_keeps_the_first_k, ()) {
  const auto count = *rc::gen::inRange<std::size_t>(1, 400);
  Logits logits = logits_of(count, *rc::gen::arbitrary<std::uint32_t>(),
                            *rc::gen::elementOf(std::vector<double>{0, 1, 20}));
  if (*rc::gen::arbitrary<bool>())
    for (float& logit : logits) logit = std::round(logit);
  const auto k = *rc::gen::inRange<std::int64_t>(1, 450);
  const auto kept = candidates({.temperature = 1, .top_k = k}, logits);
  const auto order = ranked(logits);
  const auto end = order.begin() + std::min<std::ptrdiff_t>(k, std::ssize(order));
  RC_ASSERT(kept == std::set<std::int32_t>(order.begin(), end));
}

RC_GTEST_PROP(SamplerProperty, what_is_chosen_is_a_candidate_and_repeats_itself, ()) {
  const auto count = *rc::gen::inRange<std::size_t>(1, 300);
  const Logits logits = logits_of(count, *rc::gen::arbitrary<std::uint32_t>(), 8);
  const SamplingSettings settings = {.temperature = 0.25 * *rc::gen::inRange(0, 9),
                                     .top_k = *rc::gen::inRange<std::int64_t>(0, 50),
                                     .top_p = 0.1 * *rc::gen::inRange(1, 11),
                                     .min_p = 0.1 * *rc::gen::inRange(0, 11),
                                     .repetition_penalty = 0.5 + 0.25 * *rc::gen::inRange(0, 7),
                                     .presence_penalty = 0.5 * *rc::gen::inRange(-4, 5),
                                     .frequency_penalty = 0.5 * *rc::gen::inRange(-4, 5),
                                     .seed = *rc::gen::arbitrary<std::uint64_t>()};
  Sampler one = sampler(settings, count);
  Sampler two = sampler(settings, count);
  for (int i = 0; i < 10; ++i) {
    const std::int32_t token = next(one, logits);
    RC_ASSERT(token == next(two, logits));
    RC_ASSERT(std::ranges::find(one.candidates(), token) != one.candidates().end());
  }
}

}  // namespace
}  // namespace airlock
