#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "runtime/backend.h"
#include "runtime/exact/int8_weights.h"
#include "runtime/model/model_source.h"

namespace airlock::testing {

/// Rules of rounding that the product has not, for comparison: weights and activations are rounded,
/// and go back to floats for products in fp32.

/// The matrices of a model, each row rounded to int8 by its largest weight, without a scale of the
/// columns. Embeddings are not rounded where lm_head is another tensor. Thread-safe.
class RoundedModel : public ModelSource {
 public:
  /// `inner` outlives it.
  explicit RoundedModel(const ModelSource& inner) : inner_(inner) {}

  const LlamaConfig& config() const override { return inner_.config(); }
  DType stored_dtype() const override { return DType::kF32; }
  Status read_rows(const std::string& name, std::int64_t first_row,
                   MutableTensorView out) const override;
  std::optional<TensorView> mapped(const std::string&, DType) const override {
    return std::nullopt;
  }
  void release(const std::string& name) const override { inner_.release(name); }
  Result<std::string> digest() const override { return inner_.digest(); }

 private:
  const ModelSource& inner_;
};

/// The scale s of a row of activations; each becomes s rint(x / s).
struct ActivationRule {
  enum class Scale : std::uint8_t {
    kAbsmax,  // max |x| / units
    kMean,    // mean |x| / units, as the product's but for its bound
  };
  Scale scale = Scale::kMean;
  double units = 512;
  // Whose columns' exponents x is divided by before; null: by none.
  const Int8Model* columns = nullptr;
};

/// Rounds the input of each linear and of lm_head and has `linears` multiply; all else is asked of
/// `others`. Both compute in fp32 and outlive it. One thread.
class RoundingBackend : public Backend {
 public:
  RoundingBackend(Backend& linears, Backend& others, const ActivationRule& rule)
      : linears_(linears), others_(others), rule_(rule) {}

  const BackendInfo& info() const override { return others_.info(); }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline deadline) override;

 private:
  Backend& linears_;
  Backend& others_;
  const ActivationRule rule_;
};

}  // namespace airlock::testing
