#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/model/model_source.h"

namespace airlock::testing {

/// Which channels of each layer are how much larger.
struct Outliers {
  std::vector<double> factors;  // the channels take them in turn; at least one
  int norm_channels = 3;        // of each norm in front of a linear
  int up_channels = 4;          // between up and down
  int value_channels = 1;       // between v and o
};

/// Another model of the same function: some channels of what lies between two linears are larger by
/// a factor, in the weights (norms, rows of up, rows of v) that make them, and the weights' columns
/// that take them in are smaller by it. Powers of two change no bit of the function in fp32. Which
/// channels depends on the layer alone. Embedding, lm_head and the final norm stay as they are.
/// Weights are read in fp32 and stay so unless rounded to what is asked for. Thread-safe.
class OutlierModel : public ModelSource {
 public:
  /// `inner` outlives it.
  OutlierModel(const ModelSource& inner, const Outliers& outliers);

  const LlamaConfig& config() const override { return inner_.config(); }
  DType stored_dtype() const override { return inner_.stored_dtype(); }
  Status read_rows(const std::string& name, std::int64_t first_row,
                   MutableTensorView out) const override;
  std::optional<TensorView> mapped(const std::string&, DType) const override {
    return std::nullopt;
  }
  void release(const std::string& name) const override { inner_.release(name); }
  Result<std::string> digest() const override { return inner_.digest(); }

 private:
  /// What a tensor's rows and columns are multiplied by, where it is not 1.
  struct Factors {
    std::map<std::int64_t, double> rows;
    std::map<std::int64_t, double> columns;
  };
  void enlarge_norm(const std::string& norm, const std::vector<std::string>& takers,
                    std::int64_t channel, double factor);
  void enlarge_layer(std::uint16_t layer, const Outliers& outliers);

  const ModelSource& inner_;
  std::map<std::string, Factors> factors_;  // by the tensor's name
};

}  // namespace airlock::testing
