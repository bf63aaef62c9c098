#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/model/model_source.h"

namespace airlock::testing {

/// A small LLaMA model whose weights are a function of (tensor name, seed), made in memory: for
/// tests that need a model and no file. Thread-safe.
class MemoryModel : public ModelSource {
 public:
  struct Options {
    ModelDims dims{.hidden = 96,
                   .intermediate = 416,
                   .layers = 2,
                   .heads = 6,
                   .kv_heads = 2,
                   .head_dim = 18,
                   .vocab = 500};
    bool tied = false;
    DType stored_dtype = DType::kF32;
    std::uint64_t seed = 1;
    /// Reading this tensor fails with kInvalidInput.
    std::string broken_tensor;
  };
  MemoryModel() : MemoryModel(Options{}) {}
  explicit MemoryModel(const Options& options);

  const LlamaConfig& config() const override { return config_; }
  DType stored_dtype() const override { return options_.stored_dtype; }
  Status read_rows(const std::string& name, std::int64_t first_row,
                   MutableTensorView out) const override;
  std::optional<TensorView> mapped(const std::string&, DType) const override {
    return std::nullopt;
  }
  void release(const std::string& name) const override;
  Result<std::string> digest() const override;

  /// All of a tensor, rounded to `dtype`, as fp32 values.
  std::vector<float> values(const std::string& name, DType dtype) const;
  /// [rows, columns]; a norm is one row. CHECKs that the tensor exists.
  Shape shape(const std::string& name) const;
  /// How often each tensor was released.
  std::map<std::string, int> releases() const;

 private:
  Options options_;
  LlamaConfig config_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, int> releases_;
};

}  // namespace airlock::testing
