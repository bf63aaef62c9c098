#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "proto/op.h"
#include "tests/support/memory_model.h"

namespace airlock::testing {

/// One result of an op, in fp64, and for each element the sum of the absolute products that went
/// into it.
struct ReferenceResult {
  std::vector<double> values;
  std::vector<double> magnitudes;
  std::int64_t terms = 1;  // products summed per element
};

/// What the op must give for these inputs: weights and operands rounded to `dtype` first
/// (operands of fp64 are not), then naive sums in fp64.
std::vector<ReferenceResult> reference_op(const MemoryModel& model, DType dtype, const OpSpec& spec,
                                          std::span<const TensorView> inputs);

/// The tolerance that a Backend must keep: half a unit in the last place of the result's type (unit
/// roundoff 2^-53, 2^-24, 2^-11, 2^-8) times the value, plus what fp32 accumulation (fp64 where the
/// result is fp64) of `terms` products in any order may lose. Returns how many elements break it;
/// `worst` is the largest error in units of the tolerance.
std::size_t count_outside_tolerance(TensorView result, const ReferenceResult& reference,
                                    double& worst);

/// Values in [-1, 1), rounded to desc.dtype; a function of the seed.
Tensor random_tensor(const TensorDesc& desc, std::uint64_t seed);
/// Token ids, int32 [count].
Tensor token_tensor(std::span<const std::int32_t> ids);

}  // namespace airlock::testing
