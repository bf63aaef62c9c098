#pragma once

#include <cstdint>
#include <optional>

#include "base/status.h"

namespace airlock {

/// How a token is chosen from its logits. What is not set changes nothing: the likeliest is chosen.
struct SamplingSettings {
  static constexpr double kMaxTemperature = 100;
  static constexpr double kMaxRepetitionPenalty = 100;
  static constexpr double kMaxPenalty = 2;  // of presence and frequency, either sign
  static constexpr std::int64_t kMaxTopK = std::int64_t{1} << 20;
  static constexpr int kMaxLogProbabilities = 20;

  // 0 is greedy: the largest logit, of equal ones the lowest id.
  double temperature = 0;
  // So many of the likeliest tokens; 0 is all.
  std::int64_t top_k = 0;
  // The fewest of the likeliest tokens that together have this share, over 0; 1 is all.
  double top_p = 1;
  // No token that is less than so many times as likely as the likeliest.
  double min_p = 0;
  // Logits of tokens of the prompt and of the answer are divided by it, negative ones multiplied
  // (transformers). Over 0; 1 is none.
  double repetition_penalty = 1;
  // Taken once from the logits of tokens of the answer (OpenAI).
  double presence_penalty = 0;
  // Taken from them as often as they are there (OpenAI).
  double frequency_penalty = 0;
  // The same seed, settings and logits give the same tokens.
  std::uint64_t seed = 0;
  // Log-probabilities of the token that was chosen and of so many of the likeliest; nullopt: none.
  std::optional<int> log_probabilities{};
};

/// kInvalidInput with setting, value and range for one that is beyond its own.
Status check(const SamplingSettings& settings);

}  // namespace airlock
