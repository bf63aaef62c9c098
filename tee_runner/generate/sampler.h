#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "tee_runner/generate/sampling_settings.h"

namespace airlock {

struct TokenLogProbability {
  std::int32_t token = 0;
  double log_probability = 0;
  bool operator==(const TokenLogProbability&) const = default;
};

/// A token that was chosen. Log-probabilities, where the settings ask for them, are log-softmax of
/// the logits as they came: before penalties, temperature and limits, whatever these made of them.
struct SampledToken {
  std::int32_t token = 0;
  double log_probability = 0;
  // The likeliest tokens first, of equal ones the lowest id; a view of the sampler's, until it
  // samples again.
  std::span<const TokenLogProbability> top;
};

/// Chooses the tokens of one answer from their logits, in transformers' order: repetition penalty,
/// presence and frequency penalties, temperature, top-k, top-p, min-p, then one number by chance
/// for each token. Tokens are ranked by their logit after penalties, of equal ones the lowest id
/// first, so that top-k keeps exactly k.
///
/// Number n is mix(mix(seed) + n * 0x9e3779b97f4a7c15), splitmix64: with the same logits, each CPU
/// with fused multiply-add gives the same tokens. One thread. Its buffers, some 20 bytes for each
/// token of the vocabulary, are taken once.
class Sampler {
 public:
  /// kInvalidInput as check() of the settings.
  static Result<Sampler> create(const SamplingSettings& settings, std::int64_t vocab);

  /// Tokens that stand before the answer; the repetition penalty looks at them. kInvalidInput for
  /// one that is not in the vocabulary.
  Status add_prompt(std::span<const std::int32_t> tokens);

  /// The next token of the answer, from its logits [vocab]. kProtocolError where one is NaN or
  /// infinite: a backend's word, which no choice can be made of; nothing has changed then.
  Result<SampledToken> sample(std::span<const float> logits);

  /// What the last token was chosen among: its own id alone where that was greedy.
  std::span<const std::int32_t> candidates() const { return kept_; }

 private:
  Sampler(const SamplingSettings& settings, std::size_t vocab);

  bool has_penalties() const;
  void apply_penalties();
  /// `least`: of the scores.
  std::int32_t choose(float least);
  void keep_likely();
  /// Keeps the first of the ranked candidates whose measures add up to `target`.
  template <typename Measure>
  void keep_top(double target, Measure measure);
  double kept_weight() const;
  std::int32_t draw();
  double random_number();
  void fill_log_probabilities(std::span<const float> logits, SampledToken& sampled);
  void note(std::int32_t token);

  SamplingSettings settings_;
  std::uint64_t step_ = 0;
  // Logits after penalties; [vocab].
  std::vector<float> scores_;
  float peak_ = 0;  // the largest of them
  // The largest distance from it of a score that has a weight, or more.
  float farthest_ = 0;
  // exp((score - peak) / temperature); [vocab].
  std::vector<float> weights_;
  std::vector<std::int32_t> kept_;
  // Of keep_top(): what the buckets hold, and what lies in the one that is kept in part.
  std::vector<double> buckets_;
  std::vector<std::int32_t> edge_;
  // How often each token is in the answer, and whether it is there or in the prompt; [vocab]. Then
  // the tokens of which either is so, each once.
  std::vector<std::uint32_t> counts_;
  std::vector<char> is_seen_;
  std::vector<std::int32_t> answered_;
  std::vector<std::int32_t> seen_;
  std::vector<TokenLogProbability> top_;
};

}  // namespace airlock
