#pragma once

#include <cstdint>

#include "runtime/model/config.h"

namespace airlock {

/// What one op of a client that runs this model may take, in multiplications and additions: the
/// largest op of a pass over four times as many tokens as the model has positions (a runner warns
/// beyond those, and goes on), at most limits::kMaxTokens; and so much in any case that small
/// products are free.
std::uint64_t default_max_op_flop(const LlamaConfig& config);
/// Of a server without a model: a square product of 17000, minutes of one core.
inline constexpr std::uint64_t kProductsMaxOpFlop = 10'000'000'000'000;

}  // namespace airlock
