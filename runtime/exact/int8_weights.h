#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "proto/op.h"
#include "runtime/model/model_source.h"
#include "runtime/placement/placement.h"

namespace airlock {

/// The int8 weights of a model, by one rule that is defined to the bit: the trusted side and the
/// server make them each for itself and compare digests. docs/PRIVACY.md has the rule:
///
///   column j of a linear's input is multiplied by 2^-e_j, its weights' by 2^e_j, with
///   e_j = round(log2 sqrt(p_j / rms(W[:, j]))) less the mean of all e (rounded), where the rms
///   is over the rows of all weights that meet the input, and p_j is
///     |gamma_j| of the norm in front of q, k, v, of gate, up and of lm_head;
///     for o the norm of the row of v (times gamma, elementwise) that column j comes from;
///     for down |row j of up| * |row j of gate| (each times gamma);
///   the first plane of row i is rint(W[i, j] 2^e_j / scale_i) with scale_i = max_j |W[i, j] 2^e_j|
///   / 127; the second plane is what that left, rounded to scale_i / 254:
///     W[i, j] 2^e_j ~ scale_i (plane0 + plane1 / 254).
///
/// A column whose p or rms is 0 has e_j = 0 before the mean is taken off and does not count in it;
/// e_j lies in +-30. A row whose scale is 0 has zeros. Ties go to the even.
///
/// From the weights alone: no calibration. Sums are fp64, in the order of the columns and rows.

inline constexpr int kInt8Most = 127;
inline constexpr double kPlaneRatio = 254;

/// What a linear is beside its rows of int8. The weights' rows lie one behind the other: q, k, v.
struct Int8Linear {
  std::vector<std::int64_t> weight_rows;  // of each weight
  std::int64_t columns = 0;               // of the input
  std::uint8_t planes = 1;
  std::vector<std::int8_t> column_exponents;  // e_j [columns]
  std::vector<float> scales;                  // of the first plane [rows of all weights]
  // The largest of any row of any plane: sum |w|, sum w^2, |w|.
  std::int64_t most_l1 = 0;
  std::int64_t most_l2_squared = 0;
  std::int64_t most_abs = 0;

  std::int64_t rows() const;
};

/// Some rows of one weight's plane, dense [row_count, columns].
struct Int8Rows {
  Linear linear = Linear::kQkv;
  std::uint16_t layer = 0;
  std::size_t weight = 0;  // of the linear's: 0 to 2
  std::uint8_t plane = 0;
  std::uint8_t planes = 1;     // that the linear has
  std::int64_t first_row = 0;  // of the weight
  std::int64_t row_count = 0;
  std::int64_t columns = 0;
  std::span<const std::int8_t> values;
};

/// Gets all rows, each once, in blocks of whole rows; blocks begin at multiples of kInt8BlockRows
/// of their weight and have as many rows, the last one of a weight what is left. Called on several
/// threads at once, for different blocks. The values are there during the call alone.
inline constexpr std::int64_t kInt8BlockRows = 256;
using Int8Sink = std::function<Status(const Int8Rows&)>;

/// What a model's digest has of one linear.
struct Int8Line {
  std::size_t number = 0;  // of the linear: four a layer, in order, then lm_head
  // SHA-256 in hex over what the linear is: its shape, exponents, scales, and the digests of its
  // blocks, in the order of weights, rows and planes. int8_weights.cc has the bytes.
  std::string digest;
  bool operator==(const Int8Line&) const = default;
};

/// All linears of a model, or those that a share has some of.
struct Int8Model {
  std::vector<PerValue<Linear, Int8Linear>> layers;  // [layers]; kLmHead of each is empty
  Int8Linear lm_head;
  std::vector<Int8Line> lines;  // of each that was made, in order
  /// As join_int8_lines() gives it; of a share empty.
  std::string digest;

  const Int8Linear& linear(Linear linear, std::uint16_t layer) const {
    return linear == Linear::kLmHead ? lm_head : layers[layer][linear];
  }
};

/// Makes them on every thread of `pool`, the same bits for any number of them, reading `model` two
/// times (kAuto: three) and block by block: beside what it returns it holds some MB and a block of
/// each plane a thread. Tensors of the layers are released when they are done with. `choice` is not
/// kNone. kAuto gives a linear two planes where a row's largest folded weight is more than
/// kAutoBound times the row's root mean square. `sink` may be empty. `progress`: bytes of int8 done
/// and in all (of kAuto as far as is known: a linear counts one plane until it is found to need
/// two), on the calling thread; may be empty. Errors: the model's or the sink's, whichever came
/// first; kInvalidInput for a weight that is not finite or too large for an fp32 scale.
inline constexpr double kAutoBound = 24;
/// With a `share` whole linears are made too, of each layer that it has a row of, and of lm_head
/// where it has one; no weight of another layer is read.
Result<Int8Model> make_int8_weights(
    const ModelSource& model, Int8Weights choice, ThreadPool& pool, const Int8Sink& sink,
    const std::function<void(std::size_t done_bytes, std::size_t total_bytes)>& progress = {},
    const ModelShare* share = nullptr);

/// The digest of a model's int8 weights, SHA-256 in hex over `choice` and the line of each linear
/// in order, from lines in any order, of some linears more than one. kInvalidInput: a linear has
/// none, or one is of no linear of the model. kMismatch: two of one linear differ.
Result<std::string> join_int8_lines(Int8Weights choice, const ModelDims& dims,
                                    std::span<const Int8Line> lines);

/// Planes of a linear as `choice` has them is Int8Linear::planes; so many int8 in all that a share
/// (null: all of the model) has, for a bar and for what is reserved, at most.
std::size_t most_int8_bytes(const ModelDims& dims, Int8Weights choice,
                            const ModelShare* share = nullptr);

}  // namespace airlock
