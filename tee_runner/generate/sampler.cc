#include "tee_runner/generate/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/mix.h"
#include "proto/limits.h"
#include "tee_runner/llama/vector_math.h"

namespace airlock {
namespace {

constexpr std::int32_t kLastBucket = 2047;
constexpr double kMostScore = std::numeric_limits<float>::max();
// Of splitmix64: 2^64 over the golden ratio.
constexpr std::uint64_t kGoldenStep = 0x9e3779b97f4a7c15U;
// Over this no candidate but the likeliest has a weight.
constexpr double kMaxInverseTemperature = 1e30;
// Distances under this are one to the buckets; its inverse is still a number.
constexpr float kLeastDistance = 1e-30F;
// exp() gives 0 for anything lower.
constexpr double kMostBelow = 87.5;

std::size_t at(std::int32_t token) { return static_cast<std::size_t>(token); }

bool is_finite(float value) {
  return (std::bit_cast<std::uint32_t>(value) & 0x7f800000U) != 0x7f800000U;
}

/// As a plain loop over integers, which compilers vectorise; std::isfinite() they do not.
bool all_finite(std::span<const float> values) {
  std::uint32_t wrong = 0;
  for (const float value : values)
    wrong |= (std::bit_cast<std::uint32_t>(value) & 0x7fffffffU) >= 0x7f800000U ? 1U : 0U;
  return wrong == 0;
}

/// An integer that is larger where the float is, and back. Compilers vectorise the largest and the
/// least of integers, of floats they do not.
constexpr std::int32_t in_order(std::int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

struct Span {
  float least;
  float most;
};

Span span_of(std::span<const float> values) {
  std::int32_t least = std::numeric_limits<std::int32_t>::max();
  std::int32_t most = std::numeric_limits<std::int32_t>::min();
  for (const float value : values) {
    const std::int32_t key = in_order(std::bit_cast<std::int32_t>(value));
    least = std::min(least, key);
    most = std::max(most, key);
  }
  return {std::bit_cast<float>(in_order(least)), std::bit_cast<float>(in_order(most))};
}

std::int32_t first_of(std::span<const float> values, float value) {
  return static_cast<std::int32_t>(std::ranges::find(values, value) - values.begin());
}

/// out = exp((value - peak) * factor).
void exp_below(std::span<const float> values, float peak, float factor, std::span<float> out) {
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = (values[i] - peak) * factor;
  vector_math().exp(out.data(), out.data(), out.size());
}

/// value_of(0) + ... in a fixed order that CPUs can overlap.
template <typename ValueOf>
double sum(std::size_t count, ValueOf value_of) {
  constexpr std::size_t kLanes = 8;
  double lanes[kLanes] = {};
  const std::size_t whole = count / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += value_of(i + lane);
  }
  double total = std::accumulate(lanes, lanes + kLanes, 0.0);
  for (std::size_t i = whole; i < count; ++i) total += value_of(i);
  return total;
}

}  // namespace

Result<Sampler> Sampler::create(const SamplingSettings& settings, std::int64_t vocab) {
  CHECK(vocab > 0 && vocab <= limits::kMaxVocab);
  RETURN_IF_ERROR(check(settings));
  return Sampler(settings, static_cast<std::size_t>(vocab));
}

Sampler::Sampler(const SamplingSettings& settings, std::size_t vocab)
    : settings_(settings), scores_(vocab), weights_(vocab), counts_(vocab), is_seen_(vocab) {
  kept_.reserve(vocab);
  if (settings.temperature > 0) {
    edge_.reserve(vocab);
    buckets_.resize(at(kLastBucket) + 1);
  }
  top_.reserve(SamplingSettings::kMaxLogProbabilities + 1);
}

Status Sampler::add_prompt(std::span<const std::int32_t> tokens) {
  for (const std::int32_t token : tokens) {
    if (token < 0 || at(token) >= scores_.size()) {
      return {StatusCode::kInvalidInput, "token {} of the prompt is not in the vocabulary of {}",
              token, scores_.size()};
    }
  }
  for (const std::int32_t token : tokens) {
    if (std::exchange(is_seen_[at(token)], 1) == 0) seen_.push_back(token);
  }
  return {};
}

Result<SampledToken> Sampler::sample(std::span<const float> logits) {
  CHECK(logits.size() == scores_.size());
  if (!all_finite(logits)) {
    const auto wrong = std::ranges::find_if_not(logits, is_finite);
    return Status(StatusCode::kProtocolError,
                  "the logit of token {} is {}: no token can be chosen from that",
                  wrong - logits.begin(), *wrong);
  }
  std::ranges::copy(logits, scores_.begin());
  if (has_penalties()) apply_penalties();
  const Span span = span_of(scores_);
  peak_ = span.most;
  SampledToken sampled;
  if (settings_.temperature > 0) {
    sampled.token = choose(span.least);
  } else {
    sampled.token = first_of(scores_, peak_);
    kept_.assign(1, sampled.token);
  }
  if (settings_.log_probabilities) fill_log_probabilities(logits, sampled);
  note(sampled.token);
  return sampled;
}

bool Sampler::has_penalties() const {
  return settings_.repetition_penalty != 1 || settings_.presence_penalty != 0 ||
         settings_.frequency_penalty != 0;
}

void Sampler::apply_penalties() {
  const auto change = [this](std::int32_t token, auto&& to) {
    float& score = scores_[at(token)];
    score = static_cast<float>(std::clamp(to(static_cast<double>(score)), -kMostScore, kMostScore));
  };
  const double repetition = settings_.repetition_penalty;
  if (repetition != 1) {
    for (const std::int32_t token : seen_)
      change(token,
             [=](double score) { return score < 0 ? score * repetition : score / repetition; });
  }
  for (const std::int32_t token : answered_) {
    const double taken =
        settings_.presence_penalty + settings_.frequency_penalty * counts_[at(token)];
    change(token, [=](double score) { return score - taken; });
  }
}

std::int32_t Sampler::choose(float least) {
  const double factor = std::min(1 / settings_.temperature, kMaxInverseTemperature);
  exp_below(scores_, peak_, static_cast<float>(factor), weights_);
  farthest_ = static_cast<float>(
      std::min(static_cast<double>(peak_) - static_cast<double>(least), kMostBelow / factor));
  keep_likely();
  return draw();
}

/// All that have a weight, then as the settings limit them. The likeliest always stays.
void Sampler::keep_likely() {
  const std::size_t vocab = scores_.size();
  kept_.resize(vocab);
  std::size_t count = 0;
  for (std::size_t i = 0; i < vocab; ++i) {  // without a branch: no CPU could predict it
    kept_[count] = static_cast<std::int32_t>(i);
    count += weights_[i] > 0 ? 1 : 0;
  }
  kept_.resize(count);
  if (settings_.top_k > 0 && static_cast<std::size_t>(settings_.top_k) < count)
    keep_top(static_cast<double>(settings_.top_k), [](std::int32_t /*token*/) { return 1.0; });
  const auto weight = [this](std::int32_t token) {
    return static_cast<double>(weights_[at(token)]);
  };
  if (settings_.top_p < 1) keep_top(settings_.top_p * kept_weight(), weight);
  if (settings_.min_p > 0) {
    std::erase_if(kept_, [this, &weight](std::int32_t token) {
      return scores_[at(token)] != peak_ && weight(token) < settings_.min_p;
    });
  }
}

template <typename Measure>
void Sampler::keep_top(double target, Measure measure) {
  // By their distance from the peak into buckets of one width. Only the bucket in which the target
  // is reached has to be sorted.
  const float scale = static_cast<float>(kLastBucket) / std::max(farthest_, kLeastDistance);
  const auto bucket_of = [this, scale](std::int32_t token) {
    const float place = (peak_ - scores_[at(token)]) * scale;
    return std::min(static_cast<std::int32_t>(place), kLastBucket);
  };
  std::ranges::fill(buckets_, 0.0);
  for (const std::int32_t token : kept_) buckets_[at(bucket_of(token))] += measure(token);
  std::int32_t last = 0;
  double reached = 0;
  while (last < kLastBucket && reached + buckets_[at(last)] < target)
    reached += buckets_[at(last++)];
  // Without branches, here too.
  edge_.resize(kept_.size());
  std::size_t whole = 0;
  std::size_t split = 0;
  for (const std::int32_t token : kept_) {
    const std::int32_t bucket = bucket_of(token);
    kept_[whole] = token;
    edge_[split] = token;
    // bucket < last, as a sign: of a comparison GCC makes a branch again.
    whole += static_cast<std::uint32_t>(bucket - last) >> 31;
    split += bucket == last ? 1 : 0;
  }
  kept_.resize(whole);
  edge_.resize(split);
  const auto is_before = [this](std::int32_t a, std::int32_t b) {
    return scores_[at(a)] != scores_[at(b)] ? scores_[at(a)] > scores_[at(b)] : a < b;
  };
  // Equal ones are in order.
  if (!std::ranges::is_sorted(edge_, is_before)) std::ranges::sort(edge_, is_before);
  for (const std::int32_t token : edge_) {
    kept_.push_back(token);
    reached += measure(token);
    if (reached >= target) break;
  }
}

double Sampler::kept_weight() const {
  return sum(kept_.size(),
             [this](std::size_t i) { return static_cast<double>(weights_[at(kept_[i])]); });
}

std::int32_t Sampler::draw() {
  const double wanted = random_number() * kept_weight();
  double reached = 0;
  for (const std::int32_t token : kept_) {
    reached += static_cast<double>(weights_[at(token)]);
    if (reached > wanted) return token;
  }
  return kept_.back();  // where rounding has it
}

/// At least 0, under 1; one a token.
double Sampler::random_number() {
  constexpr double kUnit = 0x1p-53;
  return static_cast<double>(mix(mix(settings_.seed) + ++step_ * kGoldenStep) >> 11) * kUnit;
}

void Sampler::fill_log_probabilities(std::span<const float> logits, SampledToken& sampled) {
  const float peak = span_of(logits).most;
  exp_below(logits, peak, 1, weights_);
  const auto weight = [this](std::size_t i) { return static_cast<double>(weights_[i]); };
  const double log_total = std::log(sum(weights_.size(), weight)) + static_cast<double>(peak);
  sampled.log_probability = static_cast<double>(logits[at(sampled.token)]) - log_total;
  const auto most = static_cast<std::size_t>(*settings_.log_probabilities);
  top_.clear();
  if (most == 0) return;
  const auto is_likelier = [](const TokenLogProbability& a, double value) {
    return a.log_probability >= value;
  };
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const auto logit = static_cast<double>(logits[i]);
    if (top_.size() == most && logit <= top_.back().log_probability) continue;
    if (top_.size() == most) top_.pop_back();
    const auto place = std::ranges::partition_point(
        top_, [&](const TokenLogProbability& other) { return is_likelier(other, logit); });
    top_.insert(place, {static_cast<std::int32_t>(i), logit});
  }
  for (TokenLogProbability& token : top_) token.log_probability -= log_total;
  sampled.top = top_;
}

void Sampler::note(std::int32_t token) {
  if (std::exchange(is_seen_[at(token)], 1) == 0) seen_.push_back(token);
  if (counts_[at(token)]++ == 0) answered_.push_back(token);
}

}  // namespace airlock
