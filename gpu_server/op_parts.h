#pragma once

#include <cstddef>

#include "proto/op.h"
#include "runtime/compute.h"
#include "runtime/placement/placement.h"

namespace airlock {

/// The memory of a part of an op whose memory is `memory`: columns of a result, not all of them,
/// have its pitch.
OpMemory part_memory(const OpPart& part, const OpMemory& memory);

/// All of an op that needs no weights (a matmul), on one rank.
OpPart whole_part(std::size_t rank, const OpSpec& spec, const OpMemory& memory);

}  // namespace airlock
