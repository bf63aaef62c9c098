#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/enum.h"
#include "base/status.h"
#include "base/tensor.h"

namespace airlock {

/// The ops that cross the airlock. The numbers travel on the wire and never change.
enum class Op : std::uint8_t {
  // () -> config uint8 [config_bytes], norms fp32 [2 * layers + 1, hidden]
  kInit = 1,
  // (Where a result or x below is int8, it has its scales' columns more: base/int8_rows.h.)
  // ids int32 [tokens] -> [tokens, hidden]
  kEmbedding = 2,
  // x [tokens, in], n weights [out_i, in] -> n results x W_i^T [tokens, out_i]
  kBatchLinear = 3,
  // a [heads, m, k], b [groups, k, n] (or transposed) -> [heads, m, n]; heads % groups == 0.
  // All three are fp64, or none; none is int8.
  kMatmul = 4,
  // x [rows, hidden] -> fp32 [rows, vocab]
  kLmHead = 5,
  // () -> uint8 JSON of the client's own session, [n]
  kStats = 6,
  // () -> ()
  kPing = 7,
  // x uint32 [rows, in], n weights int8 [out_i, in], or none: lm_head's -> uint32 [rows, out_i]:
  // x W_i^T mod 2^32, of each plane of W_i one result
  kIntLinear = 8,
  // key uint8 [16], places uint32 [rows, 2]: epoch and row; weights of one linear as kIntLinear's
  // -> uint32 [rows, out_i]: R W_i^T mod 2^32 of the pads R that key and places give
  // (runtime/exact/pad.h)
  kPadLinear = 9,
};

struct OpTraits {
  std::string_view name;
  bool is_computed = false;
};

constexpr OpTraits traits_of(Op op) {
  switch (op) {
    case Op::kInit:
      return {"init", false};
    case Op::kEmbedding:
      return {"embedding", true};
    case Op::kBatchLinear:
      return {"batch_linear", true};
    case Op::kMatmul:
      return {"matmul", true};
    case Op::kLmHead:
      return {"lm_head", true};
    case Op::kStats:
      return {"stats", false};
    case Op::kPing:
      return {"ping", false};
    case Op::kIntLinear:
      return {"int_linear", true};
    case Op::kPadLinear:
      return {"pad_linear", true};
  }
  return {};
}

constexpr std::string_view name_of(Op op) { return traits_of(op).name; }
inline constexpr auto kOps = kValuesOf<Op>;

/// Whether a backend computes it; the others are the session's own business.
constexpr bool is_computed(Op op) { return traits_of(op).is_computed; }
/// Whether it is a product of int8 weights, mod 2^32.
constexpr bool is_integer(Op op) { return op == Op::kIntLinear || op == Op::kPadLinear; }
/// The ops of a forward pass: what traces, replays and comparisons are made of.
inline constexpr auto kComputeOps = [] {
  constexpr auto kCount =
      static_cast<std::size_t>(std::count_if(kOps.begin(), kOps.end(), is_computed));
  std::array<Op, kCount> ops{};
  std::copy_if(kOps.begin(), kOps.end(), ops.begin(), is_computed);
  return ops;
}();

/// The weights that an op can name. The numbers, from 1 on, travel on the wire and never change.
enum class WeightKind : std::uint8_t { kQ = 1, kK, kV, kO, kGate, kUp, kDown };

/// As in the names of a checkpoint's tensors.
constexpr std::string_view name_of(WeightKind kind) {
  switch (kind) {
    case WeightKind::kQ:
      return "q_proj";
    case WeightKind::kK:
      return "k_proj";
    case WeightKind::kV:
      return "v_proj";
    case WeightKind::kO:
      return "o_proj";
    case WeightKind::kGate:
      return "gate_proj";
    case WeightKind::kUp:
      return "up_proj";
    case WeightKind::kDown:
      return "down_proj";
  }
  return {};
}

/// What meets one input: the weights of a linear lie one behind the other in a check and share
/// their pads. The numbers stand in the counters of pads and never change.
enum class Linear : std::uint8_t { kQkv = 0, kO = 1, kGateUp = 2, kDown = 3, kLmHead = 4 };

constexpr std::string_view name_of(Linear linear) {
  switch (linear) {
    case Linear::kQkv:
      return "qkv";
    case Linear::kO:
      return "o";
    case Linear::kGateUp:
      return "gate_up";
    case Linear::kDown:
      return "down";
    case Linear::kLmHead:
      return "lm_head";
  }
  return {};
}

constexpr Linear linear_of(WeightKind kind) {
  switch (kind) {
    case WeightKind::kQ:
    case WeightKind::kK:
    case WeightKind::kV:
      return Linear::kQkv;
    case WeightKind::kO:
      return Linear::kO;
    case WeightKind::kGate:
    case WeightKind::kUp:
      return Linear::kGateUp;
    case WeightKind::kDown:
      return Linear::kDown;
  }
  return Linear::kLmHead;
}

/// A linear's weights, in order; none of lm_head, whose one weight no op names.
std::span<const WeightKind> kinds_of(Linear linear);

struct WeightId {
  WeightKind kind = WeightKind::kQ;
  std::uint16_t layer = 0;
  bool operator==(const WeightId&) const = default;
};

/// kinds_of() in a layer: what an op of the whole linear names.
std::vector<WeightId> weights_of(Linear linear, std::uint16_t layer);

/// Which int8 weights a session works with. One plane is a weight rounded to int8 an output's
/// scale; the second is what that left, rounded likewise (runtime/exact/int8_weights.h).
enum class Int8Weights : std::uint8_t {
  kNone = 0,
  kW8 = 1,    // one plane
  kW16 = 2,   // two
  kAuto = 3,  // two where one is too coarse
};

constexpr std::string_view name_of(Int8Weights weights) {
  switch (weights) {
    case Int8Weights::kNone:
      return "none";
    case Int8Weights::kW8:
      return "w8";
    case Int8Weights::kW16:
      return "w16";
    case Int8Weights::kAuto:
      return "auto";
  }
  return {};
}
inline constexpr std::int64_t kMaxInt8Planes = 2;
inline constexpr std::int64_t kPadKeyBytes = 16;

/// Which operand of matmul lies transposed.
enum class Transpose : std::uint8_t { kNone = 0, kA = 1, kB = 2 };

constexpr std::string_view name_of(Transpose transpose) {
  switch (transpose) {
    case Transpose::kNone:
      return "none";
    case Transpose::kA:
      return "a";
    case Transpose::kB:
      return "b";
  }
  return {};
}

/// The shape of a LLaMA model: what sizes every op. Every field lies within proto/limits.h once
/// check() is ok. All zero: there is no model, and matmul alone is computed.
struct ModelDims {
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocab = 0;
  bool operator==(const ModelDims&) const = default;
  bool is_none() const { return *this == ModelDims(); }
  /// kInvalidInput naming the field, its value and its range.
  Status check() const;
};

/// [rows, columns] of a weight as transformers stores it: [out_features, in_features].
Shape weight_shape(const ModelDims& dims, WeightKind kind);

/// One op, fully described: everything that sizes it, nothing of its data.
struct OpSpec {
  Op op = Op::kPing;
  // batch_linear, int_linear and pad_linear only
  std::vector<WeightId> weights = {};
  // A float type; embedding and batch_linear: or kI8; lm_head: kF32; int_linear and pad_linear:
  // kU32.
  DType result_dtype = DType::kF32;
  // matmul only
  Transpose transpose = Transpose::kNone;
  // int_linear and pad_linear only: 1 or 2; of each weight so many results, one behind the other
  std::uint8_t planes = 0;
  std::vector<TensorDesc> inputs = {};
  bool operator==(const OpSpec&) const = default;
};

/// Checks every field of `spec` (which may come from a peer) against `dims` and proto/limits.h and
/// gives the results' types and shapes. For embedding, batch_linear, matmul, lm_head, int_linear,
/// pad_linear and ping;
/// kInvalidInput says what does not fit. (init and stats have results that only the server can
/// size: kInvalidInput here.)
Result<std::vector<TensorDesc>> op_results(const OpSpec& spec, const ModelDims& dims);

/// Multiplications and additions that an op takes whose spec op_results() took; 0 for what is not a
/// product.
std::uint64_t op_flop(const OpSpec& spec, const ModelDims& dims);

OpSpec embedding_spec(std::int64_t tokens, DType result_dtype);
OpSpec linear_spec(std::vector<WeightId> weights, const TensorDesc& input, DType result_dtype);
OpSpec matmul_spec(const TensorDesc& a, const TensorDesc& b, Transpose transpose,
                   DType result_dtype);
OpSpec lm_head_spec(const TensorDesc& input);
/// Of these weights, or of lm_head where there are none; x uint32 [rows, in].
OpSpec int_linear_spec(std::vector<WeightId> weights, std::uint8_t planes, std::int64_t rows,
                       const ModelDims& dims);
OpSpec pad_linear_spec(std::vector<WeightId> weights, std::uint8_t planes, std::int64_t rows);
/// The linear that an int_linear or a pad_linear is of, and its layer (0 of lm_head).
Linear linear_of(const OpSpec& spec);
std::uint16_t layer_of(const OpSpec& spec);
/// [out, in] of the weights that an int_linear or pad_linear names, in order; of lm_head where it
/// names none.
std::vector<Shape> weight_shapes(const OpSpec& spec, const ModelDims& dims);

}  // namespace airlock
