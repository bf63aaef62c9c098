#pragma once

#include <string>
#include <vector>

#include "base/tensor.h"
#include "runtime/model/config.h"

namespace airlock {

/// A tensor that a LLaMA model must have.
struct ExpectedTensor {
  std::string name;
  Shape shape;  // [rows, columns], norms [hidden]
};

/// Every tensor of the model, in the order of the layers; no lm_head.weight where it is tied to the
/// embedding.
std::vector<ExpectedTensor> expected_tensors(const LlamaConfig& config);

/// Checks that `out` can hold rows of a tensor of shape `tensor` from first_row on; the count of
/// rows it asks for.
Result<std::int64_t> check_rows(const std::string& name, const Shape& tensor,
                                std::int64_t first_row, const TensorDesc& out);

}  // namespace airlock
