#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "runtime/model/model_source.h"
#include "tests/quality/closeness.h"
#include "tests/quality/computed_llama.h"
#include "tests/quality/outliers.h"

namespace airlock::testing {

/// text-kjv of the golden models: beside this tree, or where AIRLOCK_SHARED says.
std::filesystem::path text_kjv();
/// Where tools/fetch_model puts SmolLM2.
std::filesystem::path smollm2();

/// A model, windows of a text as its tokens, and its logits in fp32. One thread.
class Subject {
 public:
  static constexpr std::size_t kWindowTokens = 256;

  /// `text`: a file of bench/data, of which at most `most_windows` are taken, one at least
  /// (CHECKed). Errors: the model's.
  static Result<Subject> open(const std::filesystem::path& folder, const std::string& text,
                              std::size_t threads, std::size_t most_windows);

  const ModelSource& model() const { return *model_; }
  std::size_t threads() const { return threads_; }
  std::size_t windows() const { return windows_.size(); }
  /// What computes it in fp32.
  Backend& floats() const { return floats_->backend(); }

  /// How close another way of computing it comes, on all windows.
  Closeness::Figures compare(ComputedLlama& llama) const;
  Closeness::Figures compare(Way way) const;
  /// Of another model of the same function, or of this one, on so many of the windows; fp32
  /// crosses.
  Closeness::Figures compare(const ModelSource& model, Backend& backend,
                             std::size_t most_windows = SIZE_MAX) const;

 private:
  Subject(std::unique_ptr<ModelSource> model, std::size_t threads)
      : model_(std::move(model)), threads_(threads) {}

  std::unique_ptr<ModelSource> model_;
  std::size_t threads_;
  std::unique_ptr<ComputedLlama> floats_;
  std::vector<std::vector<std::int32_t>> windows_;
  std::vector<Tensor> logits_;
};

/// KL of a model with outliers in integers, and by the rules that the product has not.
struct OutlierKl {
  double exact;   // in fp32
  double w8;      // the product
  double mean;    // weights without a scale of the columns
  double absmax;  // and activations by their largest
};
OutlierKl outlier_kl(const Subject& subject, const Outliers& outliers,
                     std::size_t most_windows = SIZE_MAX);

}  // namespace airlock::testing
