#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "runtime/model/model_source.h"

namespace airlock::bench {

inline constexpr ModelDims kLlama1B{.hidden = 2048,
                                    .intermediate = 8192,
                                    .layers = 16,
                                    .heads = 32,
                                    .kv_heads = 8,
                                    .head_dim = 64,
                                    .vocab = 128256};
/// LLaMA-3.2-1B in bf16; every weight is a cheap function of its index.
class Llama1B : public ModelSource {
 public:
  explicit Llama1B(std::int64_t layers = kLlama1B.layers) {
    config_.dims = kLlama1B;
    config_.dims.layers = layers;
    config_.tie_word_embeddings = true;
    config_.dtype = DType::kBF16;
  }
  const LlamaConfig& config() const override { return config_; }
  DType stored_dtype() const override { return DType::kBF16; }
  Status read_rows(const std::string&, std::int64_t, MutableTensorView out) const override {
    if (out.desc.dtype == DType::kF32) {
      std::ranges::fill(out.as<float>(), 1.0F);
      return {};
    }
    const std::span<std::uint16_t> values = out.as<std::uint16_t>();
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<std::uint16_t>(0x3c00U + i % 251);
    return {};
  }
  std::optional<TensorView> mapped(const std::string&, DType) const override {
    return std::nullopt;
  }
  void release(const std::string&) const override {}
  Result<std::string> digest() const override { return std::string(64, '0'); }

 private:
  LlamaConfig config_;
};

}  // namespace airlock::bench
