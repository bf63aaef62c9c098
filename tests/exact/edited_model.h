#pragma once

#include <functional>
#include <string>

#include "tests/support/memory_model.h"

namespace airlock::testing {

/// A MemoryModel whose weights pass through a function. Its owner keeps both.
class EditedModel : public ModelSource {
 public:
  using Edit =
      std::function<float(const std::string& name, std::int64_t row, std::int64_t column, float)>;
  EditedModel(const MemoryModel& model, Edit edit) : model_(model), edit_(std::move(edit)) {}

  const LlamaConfig& config() const override { return model_.config(); }
  DType stored_dtype() const override { return model_.stored_dtype(); }
  /// fp32 alone.
  Status read_rows(const std::string& name, std::int64_t first_row,
                   MutableTensorView out) const override {
    RETURN_IF_ERROR(model_.read_rows(name, first_row, out));
    const std::int64_t columns = model_.shape(name)[1];
    std::int64_t at = first_row * columns;
    for (float& value : out.as<float>()) {
      value = edit_(name, at / columns, at % columns, value);
      ++at;
    }
    return {};
  }
  std::optional<TensorView> mapped(const std::string&, DType) const override {
    return std::nullopt;
  }
  void release(const std::string& name) const override { model_.release(name); }
  Result<std::string> digest() const override { return model_.digest(); }

 private:
  const MemoryModel& model_;
  Edit edit_;
};

/// Leaves all as it is.
inline float as_it_is(const std::string& /*name*/, std::int64_t /*row*/, std::int64_t /*column*/,
                      float value) {
  return value;
}

}  // namespace airlock::testing
