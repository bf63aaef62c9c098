#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "proto/op.h"
#include "runtime/compute.h"
#include "runtime/op_times.h"
#include "runtime/placement/placement.h"

namespace airlock {

/// The memory of a part of an op whose memory is `memory`: columns of a result, not all of them,
/// have its pitch.
OpMemory part_memory(const OpPart& part, const OpMemory& memory);

/// All of an op that needs no weights (a matmul), on one rank.
OpPart whole_part(std::size_t rank, const OpSpec& spec, const OpMemory& memory);

/// After take_slowest() of each part: what of `total_ns` is none of theirs is waiting.
void end_parts(OpTimes& times, std::uint64_t total_ns);

}  // namespace airlock
