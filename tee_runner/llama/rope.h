#pragma once

#include <cstdint>
#include <vector>

#include "runtime/model/config.h"

namespace airlock {

/// Cosines and sines of rotary position embeddings for positions from 0 on, as transformers
/// computes them (fp32 frequencies, `linear` and `llama3` scaling), in the rotate_half layout:
/// element i pairs with i + head_dim / 2.
struct RopeTable {
  std::size_t half = 0;    // head_dim / 2
  std::vector<float> cos;  // [positions, half]
  std::vector<float> sin;  // [positions, half]
};

/// The inverse frequencies after scaling, [head_dim / 2]. head_dim is even.
std::vector<float> rope_inverse_frequencies(const LlamaConfig& config);
/// Adds to `table`, which is empty or of the same model, what it lacks of positions [0, count).
void extend_rope_table(const LlamaConfig& config, std::int64_t count, RopeTable& table);

}  // namespace airlock
