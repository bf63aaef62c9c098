#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "runtime/exact/int8_weights.h"

namespace airlock {

/// Activations as integers, of which no sum can wrap, and back. The same bits on every machine.

/// mean |x'| of a row in its units, where its largest values leave it so. By its planes: with two,
/// weights are so exact that a mean of 512 units would be nearly all of the error
/// (bench/results, quality).
inline constexpr double kMeanUnits = 512;
inline constexpr double kMeanUnitsOfTwoPlanes = 4096;

/// Writes the integers of one row x [columns] for `linear` to out [columns] and returns the row's
/// scale s, which the host must not learn:
///
///   x' = x 2^-e_j, s = max(mean |x'| / units, s_bound), out = rint(x' (1 / s)),
///
/// all in fp32 (the norms in fp64), ties to the even; units as above. s_bound is the least s that
/// keeps one of |out|_inf |w|_1, |out|_2 |w|_2, |out|_1 |w|_inf below 2^31 for every row w of the
/// linear; that is proven on `out` (wraps_nowhere()) before it is returned. No s is below max |x'|
/// / 2^30. A row of zeros has s = 1. kInternal "activations are not finite" where x or x' is not.
/// The extents fit (CHECKed). Any thread.
Result<float> quantise_row(std::span<const float> x, const Int8Linear& linear,
                           std::span<std::int32_t> out);

/// The integers at a scale that is given: rint(x 2^-e_j (1 / scale)). The caller knows that they
/// fit int32.
void quantise_at(std::span<const float> x, std::span<const std::int8_t> exponents, float scale,
                 std::span<std::int32_t> out);

/// Whether the norms of these integers prove that no sum of them times a row of `linear` reaches
/// 2^31 in size.
bool wraps_nowhere(std::span<const std::int32_t> row, const Int8Linear& linear);

/// One weight's results back to fp32, out [rows]: float(first) (s scale_i), both products rounded
/// to fp32; where there is a second plane, first + second / kPlaneRatio in fp64 in the place of
/// first. `second` is empty or [rows]; scales [rows] are the weight's among its linear's.
void dequantise_row(std::span<const std::int32_t> first, std::span<const std::int32_t> second,
                    float scale, std::span<const float> scales, std::span<float> out);

}  // namespace airlock
