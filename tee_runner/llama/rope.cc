#include "tee_runner/llama/rope.h"

#include <cmath>
#include <numbers>

namespace airlock {

namespace {

/// transformers' _compute_llama3_parameters, in fp32 as there.
float scale_llama3(float frequency, const RopeScaling& scaling) {
  const auto factor = static_cast<float>(scaling.factor);
  const auto low_wavelength =
      static_cast<float>(scaling.original_max_position_embeddings / scaling.low_freq_factor);
  const auto high_wavelength =
      static_cast<float>(scaling.original_max_position_embeddings / scaling.high_freq_factor);
  const float wavelength = static_cast<float>(2.0 * std::numbers::pi) / frequency;
  if (wavelength > low_wavelength) return frequency / factor;
  if (wavelength < high_wavelength) return frequency;
  const float smooth = (static_cast<float>(scaling.original_max_position_embeddings) / wavelength -
                        static_cast<float>(scaling.low_freq_factor)) /
                       static_cast<float>(scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0F - smooth) * frequency / factor + smooth * frequency;
}

}  // namespace

std::vector<float> rope_inverse_frequencies(const LlamaConfig& config) {
  const auto half = static_cast<std::size_t>(config.dims.head_dim / 2);
  std::vector<float> frequencies(half);
  for (std::size_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.dims.head_dim);
    // The power in double and rounded once: what an exact fp32 pow gives.
    const double power = std::pow(static_cast<double>(static_cast<float>(config.rope_theta)),
                                  static_cast<double>(exponent));
    float frequency = 1.0F / static_cast<float>(power);
    if (config.rope_scaling.type == RopeScaling::Type::kLinear) {
      frequency /= static_cast<float>(config.rope_scaling.factor);
    } else if (config.rope_scaling.type == RopeScaling::Type::kLlama3) {
      frequency = scale_llama3(frequency, config.rope_scaling);
    }
    frequencies[i] = frequency;
  }
  return frequencies;
}

void extend_rope_table(const LlamaConfig& config, std::int64_t count, RopeTable& table) {
  table.half = static_cast<std::size_t>(config.dims.head_dim / 2);
  std::size_t i = table.cos.size();
  const std::size_t end = static_cast<std::size_t>(count) * table.half;
  if (i >= end) return;
  const std::vector<float> frequencies = rope_inverse_frequencies(config);
  table.cos.resize(end);
  table.sin.resize(end);
  for (; i < end; ++i) {
    // The angle is an fp32 product, as in transformers; only its cosine and sine are taken more
    // exactly.
    const float angle = static_cast<float>(i / table.half) * frequencies[i % table.half];
    table.cos[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    table.sin[i] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
}

}  // namespace airlock
