#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"

namespace airlock {

/// The ops that cross the airlock. The numbers travel on the wire and never change.
enum class Op : std::uint8_t {
  kInit = 1,         // () -> config uint8 [config_bytes], norms fp32 [2 * layers + 1, hidden]
  kEmbedding = 2,    // ids int32 [tokens] -> [tokens, hidden]
  kBatchLinear = 3,  // x [tokens, in], n weights [out_i, in] -> n results x W_i^T [tokens, out_i]
  kMatmul =
      4,  // a [heads, m, k], b [groups, k, n] (or transposed) -> [heads, m, n]; heads % groups == 0
  kLmHead = 5,  // x [rows, hidden] -> fp32 [rows, vocab]
  kStats = 6,   // () -> uint8 JSON of the client's own session, [n]
  kPing = 7,    // () -> ()
};
inline constexpr std::size_t kOpCount = 7;

std::string_view op_name(
    Op op);  // "init", "embedding", "batch_linear", "matmul", "lm_head", "stats", "ping"
std::optional<Op> op_from_wire(std::uint64_t value);

/// The weights that an op can name. The numbers travel on the wire and never change.
enum class WeightKind : std::uint8_t {
  kQ = 1,
  kK = 2,
  kV = 3,
  kO = 4,
  kGate = 5,
  kUp = 6,
  kDown = 7
};
std::string_view weight_kind_name(WeightKind kind);  // "q_proj", ..., "down_proj"

struct WeightId {
  WeightKind kind = WeightKind::kQ;
  std::uint16_t layer = 0;
  bool operator==(const WeightId&) const = default;
};

enum class Transpose : std::uint8_t {
  kNone = 0,
  kA = 1,
  kB = 2
};  // which operand of matmul lies transposed

/// The shape of a LLaMA model: what sizes every op. Every field lies within proto/limits.h once
/// check() is ok.
struct ModelDims {
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocab = 0;
  bool operator==(const ModelDims&) const = default;
  /// kInvalidInput naming the field, its value and its range.
  Status check() const;
};

/// [rows, columns] of a weight as transformers stores it: [out_features, in_features].
Shape weight_shape(const ModelDims& dims, WeightKind kind);

/// One op, fully described: everything that sizes it, nothing of its data.
struct OpSpec {
  Op op = Op::kPing;
  std::vector<WeightId> weights;           // batch_linear only
  DType result_dtype = DType::kF32;        // a float type; lm_head: kF32
  Transpose transpose = Transpose::kNone;  // matmul only
  std::vector<TensorDesc> inputs;
  bool operator==(const OpSpec&) const = default;
};

/// Checks every field of `spec` (which may come from a peer) against `dims` and proto/limits.h and
/// gives the results' types and shapes. For embedding, batch_linear, matmul, lm_head and ping;
/// kInvalidInput says what does not fit. (init and stats have results that only the server can
/// size: kInvalidInput here.)
Result<std::vector<TensorDesc>> op_results(const OpSpec& spec, const ModelDims& dims);

OpSpec embedding_spec(std::int64_t tokens, DType result_dtype);
OpSpec linear_spec(std::vector<WeightId> weights, const TensorDesc& input, DType result_dtype);
OpSpec matmul_spec(const TensorDesc& a, const TensorDesc& b, Transpose transpose,
                   DType result_dtype);
OpSpec lm_head_spec(const TensorDesc& input);

}  // namespace airlock
