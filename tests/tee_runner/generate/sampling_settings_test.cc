#include "tee_runner/generate/sampling_settings.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace airlock {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::string refusal(const SamplingSettings& settings) {
  const Status status = check(settings);
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  return status.message();
}

TEST(SamplingSettings, the_ends_of_each_range_are_allowed) {
  EXPECT_TRUE(check({}).ok());
  EXPECT_TRUE(check({.temperature = 100,
                     .top_k = SamplingSettings::kMaxTopK,
                     .top_p = 1e-300,
                     .min_p = 1,
                     .repetition_penalty = 100,
                     .presence_penalty = -2,
                     .frequency_penalty = 2,
                     .log_probabilities = 20})
                  .ok());
}

TEST(SamplingSettings, each_is_refused_by_its_name) {
  EXPECT_EQ(refusal({.temperature = -1}), "temperature is -1, expected a number from 0 to 100");
  EXPECT_EQ(refusal({.temperature = kNan}), "temperature is nan, expected a number from 0 to 100");
  EXPECT_EQ(refusal({.top_k = -1}), "top_k is -1, expected an integer from 0 to 1048576");
  EXPECT_EQ(refusal({.top_p = 0}), "top_p is 0, expected a number over 0 to 1");
  EXPECT_EQ(refusal({.top_p = 1.5}), "top_p is 1.5, expected a number over 0 to 1");
  EXPECT_EQ(refusal({.min_p = 1.1}), "min_p is 1.1, expected a number from 0 to 1");
  EXPECT_EQ(refusal({.repetition_penalty = 0}),
            "repetition_penalty is 0, expected a number over 0 to 100");
  EXPECT_EQ(refusal({.presence_penalty = kNan}),
            "presence_penalty is nan, expected a number from -2 to 2");
  EXPECT_EQ(refusal({.frequency_penalty = 2.5}),
            "frequency_penalty is 2.5, expected a number from -2 to 2");
  EXPECT_EQ(refusal({.log_probabilities = 21}),
            "log_probabilities is 21, expected an integer from 0 to 20");
}

}  // namespace
}  // namespace airlock
