#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace airlock::testing {

/// How close logits are to those of a reference, over many positions of texts. KL in nats, of the
/// softmax, all in fp64. One thread.
class Closeness {
 public:
  struct Figures {
    std::size_t positions = 0;
    double mean_kl = 0;   // KL(reference || got)
    double worst_kl = 0;  // of any position
    // Perplexity of the texts' next tokens over the reference's; 1 where they are the same.
    double perplexity_ratio = 1;
    double perplexity_error = 0;        // standard error of it, as of independent tokens
    double top_equal = 0;               // a share of the positions
    std::size_t clear_positions = 0;    // whose reference leads by more than kClearMargin
    std::size_t clear_top_differs = 0;  // of those
  };
  static constexpr double kClearMargin = 0.5;  // first logit over the second

  /// One text: `tokens` [tokens], `reference` and `got` [tokens, vocab], the logits behind each
  /// token. Each logit is a number; the extents fit (CHECKed).
  void add(std::span<const std::int32_t> tokens, std::span<const float> reference,
           std::span<const float> got);
  /// Of at least one position.
  Figures figures() const;

 private:
  std::size_t positions_ = 0;
  std::size_t predicted_ = 0;
  double kl_ = 0;
  double worst_kl_ = 0;
  double lost_ = 0;  // of the log likelihood of the texts
  double lost_squared_ = 0;
  std::size_t top_equal_ = 0;
  std::size_t clear_ = 0;
  std::size_t clear_differs_ = 0;
};

}  // namespace airlock::testing
