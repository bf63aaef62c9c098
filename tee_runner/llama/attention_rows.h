#pragma once

#include <cstddef>

#include "base/dtype.h"
#include "tee_runner/llama/rope.h"
#include "tee_runner/llama/vector_math.h"

namespace airlock {

/// One head of one token on its way into attention and out of it; `dtype` is a float type.

/// out [head_dim] = the rotated head at `in`, each element of which is read once.
void rotate_row(const RopeTable& table, std::size_t position, DType dtype, const std::byte* in,
                float* out);
/// out [head_dim] = a row of the block after its last step, rounded once.
void finish_row(const QueryBlock& block, std::size_t row, DType dtype, std::byte* out);

}  // namespace airlock
