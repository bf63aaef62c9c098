#include "tests/quality/closeness.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace airlock::testing {

namespace {

/// log of the sum of exp of the logits.
double log_sum(std::span<const float> logits) {
  const auto peak = static_cast<double>(*std::ranges::max_element(logits));
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - peak);
  return peak + std::log(sum);
}

std::size_t top_of(std::span<const float> logits) {
  return static_cast<std::size_t>(std::ranges::max_element(logits) - logits.begin());
}

double margin_of(std::span<const float> logits, std::size_t top) {
  float second = -INFINITY;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (i != top) second = std::max(second, logits[i]);
  }
  return static_cast<double>(logits[top]) - static_cast<double>(second);
}

}  // namespace

void Closeness::add(std::span<const std::int32_t> tokens, std::span<const float> reference,
                    std::span<const float> got) {
  CHECK(!tokens.empty() && reference.size() == got.size() && got.size() % tokens.size() == 0);
  const std::size_t vocab = got.size() / tokens.size();
  for (std::size_t at = 0; at < tokens.size(); ++at) {
    const std::span<const float> p = reference.subspan(at * vocab, vocab);
    const std::span<const float> q = got.subspan(at * vocab, vocab);
    const double p_sum = log_sum(p);
    const double q_sum = log_sum(q);
    double kl = 0;
    for (std::size_t i = 0; i < vocab; ++i) {
      const double log_p = static_cast<double>(p[i]) - p_sum;
      kl += std::exp(log_p) * (log_p - (static_cast<double>(q[i]) - q_sum));
    }
    CHECK(std::isfinite(kl));
    kl_ += kl;
    worst_kl_ = std::max(worst_kl_, kl);
    const std::size_t top = top_of(p);
    const bool same = top_of(q) == top;
    top_equal_ += same ? 1 : 0;
    if (margin_of(p, top) > kClearMargin) {
      ++clear_;
      clear_differs_ += same ? 0 : 1;
    }
    ++positions_;
    if (at + 1 == tokens.size()) continue;
    CHECK(tokens[at + 1] >= 0 && static_cast<std::size_t>(tokens[at + 1]) < vocab);
    const auto next = static_cast<std::size_t>(tokens[at + 1]);
    const double lost =
        (static_cast<double>(p[next]) - p_sum) - (static_cast<double>(q[next]) - q_sum);
    lost_ += lost;
    lost_squared_ += lost * lost;
    ++predicted_;
  }
}

Closeness::Figures Closeness::figures() const {
  CHECK(positions_ > 0);
  const auto count = static_cast<double>(positions_);
  Figures figures;
  figures.positions = positions_;
  figures.mean_kl = kl_ / count;
  figures.worst_kl = worst_kl_;
  figures.top_equal = static_cast<double>(top_equal_) / count;
  figures.clear_positions = clear_;
  figures.clear_top_differs = clear_differs_;
  if (predicted_ > 0) {
    const auto predicted = static_cast<double>(predicted_);
    const double mean = lost_ / predicted;
    const double variance = std::max(lost_squared_ / predicted - mean * mean, 0.0);
    figures.perplexity_ratio = std::exp(mean);
    figures.perplexity_error = figures.perplexity_ratio * std::sqrt(variance / predicted);
  }
  return figures;
}

}  // namespace airlock::testing
