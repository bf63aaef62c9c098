#include "proto/op.h"

#include <algorithm>
#include <utility>

#include "base/int8_rows.h"
#include "proto/limits.h"

namespace airlock {
namespace {

template <typename... Args>
Status invalid(fmt::format_string<Args...> format, Args&&... args) {
  return {StatusCode::kInvalidInput, format, std::forward<Args>(args)...};
}

Status check_range(std::string_view field, std::int64_t value, std::int64_t most) {
  if (value >= 1 && value <= most) return {};
  return invalid("{} is {}, expected 1 to {}", field, value, most);
}

/// Rank, extents and bytes of a tensor; after it desc.bytes() may be called.
Status check_tensor(std::string_view name, const TensorDesc& desc, std::size_t rank) {
  const Shape& shape = desc.shape;
  if (shape.rank() != rank)
    return invalid("{} has shape {}, expected rank {}", name, shape.to_string(), rank);
  if (std::ranges::any_of(shape.extents(), [](std::int64_t extent) { return extent < 1; }))
    return invalid("{} has shape {}, an empty extent", name, shape.to_string());
  const auto bytes = shape.byte_count(desc.dtype);
  if (bytes && *bytes <= limits::kMaxTensorBytes) return {};
  return invalid("{} has shape {} of {}, over {} bytes", name, shape.to_string(),
                 name_of(desc.dtype), limits::kMaxTensorBytes);
}

Status check_float(std::string_view name, DType dtype) {
  if (is_model_float(dtype)) return {};
  return invalid("{} is {}, expected a float type", name, name_of(dtype));
}

/// Of several tensors together.
Status check_total(std::string_view what, std::uint64_t bytes) {
  if (bytes <= limits::kMaxMessageBytes) return {};
  return invalid("{} have {} bytes, expected at most {}", what, bytes, limits::kMaxMessageBytes);
}

/// What a tensor becomes where it is computed with: int8 rows are widened there, and bounded as
/// that.
TensorDesc computed(const TensorDesc& desc) {
  return desc.dtype == DType::kI8 ? widened(desc) : desc;
}

/// x [rows, columns] of a float type, or int8 rows of so many numbers; at most kMaxTokens rows.
Status check_activations(const TensorDesc& x, std::string_view columns_name, std::int64_t columns) {
  RETURN_IF_ERROR(check_tensor("x", x, 2));
  if (x.dtype != DType::kI8) RETURN_IF_ERROR(check_float("x", x.dtype));
  RETURN_IF_ERROR(check_range("rows of x", x.shape[0], limits::kMaxTokens));
  const std::int64_t expected = wire_columns(x.dtype, columns);
  if (x.shape[1] == expected) return check_tensor("x", computed(x), 2);
  return invalid("x has shape {}, expected {} columns ({}{})", x.shape.to_string(), expected,
                 columns_name, x.dtype == DType::kI8 ? " numbers and their scales" : "");
}

/// [rows, columns] of the spec's result type.
TensorDesc result_of(const OpSpec& spec, std::int64_t rows, std::int64_t columns) {
  return {spec.result_dtype, Shape{rows, wire_columns(spec.result_dtype, columns)}};
}

/// Each result and all of them together against the limits.
Result<std::vector<TensorDesc>> checked(std::vector<TensorDesc> results) {
  std::uint64_t total_bytes = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const std::string name = fmt::format("result {}", i);
    const TensorDesc result = computed(results[i]);
    RETURN_IF_ERROR(check_tensor(name, result, result.shape.rank()));
    total_bytes += result.bytes();
  }
  RETURN_IF_ERROR(check_total("the results", total_bytes));
  return results;
}

Result<std::vector<TensorDesc>> embedding_results(const OpSpec& spec, const ModelDims& dims) {
  const TensorDesc& ids = spec.inputs[0];
  if (ids.dtype != DType::kI32) return invalid("ids are {}, expected int32", name_of(ids.dtype));
  RETURN_IF_ERROR(check_tensor("ids", ids, 1));
  RETURN_IF_ERROR(check_range("tokens", ids.shape[0], limits::kMaxTokens));
  return checked({result_of(spec, ids.shape[0], dims.hidden)});
}

Result<std::vector<TensorDesc>> linear_results(const OpSpec& spec, const ModelDims& dims) {
  if (spec.weights.empty() || spec.weights.size() > limits::kMaxWeightsPerOp) {
    return invalid("batch_linear names {} weights, expected 1 to {}", spec.weights.size(),
                   limits::kMaxWeightsPerOp);
  }
  const std::string_view first_name = name_of(spec.weights[0].kind);
  const std::int64_t columns = weight_shape(dims, spec.weights[0].kind)[1];
  RETURN_IF_ERROR(check_activations(spec.inputs[0], first_name, columns));
  std::vector<TensorDesc> results;
  results.reserve(spec.weights.size());
  for (const WeightId& weight : spec.weights) {
    if (weight.layer >= dims.layers) {
      return invalid("{} names layer {}, the model has {}", name_of(weight.kind), weight.layer,
                     dims.layers);
    }
    const Shape shape = weight_shape(dims, weight.kind);
    if (shape[1] != columns) {
      return invalid("{} takes {} columns, {} in the same batch_linear takes {}",
                     name_of(weight.kind), shape[1], first_name, columns);
    }
    results.push_back(result_of(spec, spec.inputs[0].shape[0], shape[0]));
  }
  return checked(std::move(results));
}

Result<std::vector<TensorDesc>> matmul_results(const OpSpec& spec) {
  const TensorDesc& a = spec.inputs[0];
  const TensorDesc& b = spec.inputs[1];
  RETURN_IF_ERROR(check_tensor("a", a, 3));
  RETURN_IF_ERROR(check_tensor("b", b, 3));
  if (a.dtype != DType::kF64) RETURN_IF_ERROR(check_float("a", a.dtype));
  if (a.dtype != b.dtype)
    return invalid("a is {} and b is {}, expected one type", name_of(a.dtype), name_of(b.dtype));
  if ((a.dtype == DType::kF64) != (spec.result_dtype == DType::kF64)) {
    return invalid("a and b are {}, the result {}: all of them are fp64, or none", name_of(a.dtype),
                   name_of(spec.result_dtype));
  }
  const bool a_transposed = spec.transpose == Transpose::kA;
  const bool b_transposed = spec.transpose == Transpose::kB;
  const std::int64_t m = a.shape[a_transposed ? 2 : 1];
  const std::int64_t k = a.shape[a_transposed ? 1 : 2];
  const std::int64_t b_k = b.shape[b_transposed ? 2 : 1];
  const std::int64_t n = b.shape[b_transposed ? 1 : 2];
  RETURN_IF_ERROR(check_range("heads of a", a.shape[0], limits::kMaxHeads));
  RETURN_IF_ERROR(check_range("m of a", m, limits::kMaxTokens));
  RETURN_IF_ERROR(check_range("k of a", k, limits::kMaxTokens));
  RETURN_IF_ERROR(check_range("n of b", n, limits::kMaxTokens));
  if (k != b_k) {
    return invalid("a {} and b {}: k is {} and {}", a.shape.to_string(), b.shape.to_string(), k,
                   b_k);
  }
  if (a.shape[0] % b.shape[0] != 0)
    return invalid("{} heads of a are no multiple of {} groups of b", a.shape[0], b.shape[0]);
  RETURN_IF_ERROR(check_total("a and b", a.bytes() + b.bytes()));
  return checked({{spec.result_dtype, Shape{a.shape[0], m, n}}});
}

Result<std::vector<TensorDesc>> lm_head_results(const OpSpec& spec, const ModelDims& dims) {
  if (spec.result_dtype != DType::kF32)
    return invalid("lm_head's result dtype is {}, expected fp32", name_of(spec.result_dtype));
  RETURN_IF_ERROR(check_activations(spec.inputs[0], "hidden", dims.hidden));
  return checked({{DType::kF32, Shape{spec.inputs[0].shape[0], dims.vocab}}});
}

Status check_planes(const OpSpec& spec, std::size_t weight_count) {
  RETURN_IF_ERROR(check_range("planes", spec.planes, kMaxInt8Planes));
  if (weight_count * spec.planes <= limits::kMaxTensorsPerMessage) return {};
  return invalid("{} has {} weights of {} planes, over {} results", name_of(spec.op), weight_count,
                 spec.planes, limits::kMaxTensorsPerMessage);
}

/// The results of rows that meet the weights of an integer op, all of which take as many columns.
Result<std::vector<TensorDesc>> integer_results(const OpSpec& spec, const ModelDims& dims,
                                                std::int64_t rows) {
  const std::string_view op = name_of(spec.op);
  if (spec.result_dtype != DType::kU32)
    return invalid("{}'s result dtype is {}, expected uint32", op, name_of(spec.result_dtype));
  if (spec.weights.size() > limits::kMaxWeightsPerOp) {
    return invalid("{} names {} weights, expected at most {}", op, spec.weights.size(),
                   limits::kMaxWeightsPerOp);
  }
  RETURN_IF_ERROR(check_range("rows", rows, limits::kMaxTokens));
  const WeightId first = spec.weights.empty() ? WeightId{} : spec.weights[0];
  for (const WeightId& weight : spec.weights) {
    if (weight.layer >= dims.layers) {
      return invalid("{} names layer {}, the model has {}", name_of(weight.kind), weight.layer,
                     dims.layers);
    }
    if (linear_of(weight.kind) != linear_of(first.kind) || weight.layer != first.layer) {
      return invalid("{} names {} of layer {} and {} of layer {}: they are not of one linear", op,
                     name_of(first.kind), first.layer, name_of(weight.kind), weight.layer);
    }
  }
  const std::vector<Shape> shapes = weight_shapes(spec, dims);
  RETURN_IF_ERROR(check_planes(spec, shapes.size()));
  std::vector<TensorDesc> results;
  for (const Shape& shape : shapes) {
    for (int plane = 0; plane < spec.planes; ++plane)
      results.push_back({DType::kU32, Shape{rows, shape[0]}});
  }
  return checked(std::move(results));
}

Result<std::vector<TensorDesc>> int_linear_results(const OpSpec& spec, const ModelDims& dims) {
  const TensorDesc& x = spec.inputs[0];
  if (x.dtype != DType::kU32) return invalid("x is {}, expected uint32", name_of(x.dtype));
  RETURN_IF_ERROR(check_tensor("x", x, 2));
  ASSIGN_OR_RETURN(std::vector<TensorDesc> results, integer_results(spec, dims, x.shape[0]));
  const std::int64_t columns = weight_shapes(spec, dims)[0][1];
  if (x.shape[1] == columns) return results;
  return invalid("x has shape {}, expected {} columns ({})", x.shape.to_string(), columns,
                 name_of(linear_of(spec)));
}

Result<std::vector<TensorDesc>> pad_linear_results(const OpSpec& spec, const ModelDims& dims) {
  const TensorDesc& key = spec.inputs[0];
  const TensorDesc& places = spec.inputs[1];
  if (!(key == TensorDesc{DType::kU8, Shape{kPadKeyBytes}})) {
    return invalid("the key is {} {}, expected uint8 [{}]", name_of(key.dtype),
                   key.shape.to_string(), kPadKeyBytes);
  }
  if (places.dtype != DType::kU32)
    return invalid("the places are {}, expected uint32", name_of(places.dtype));
  RETURN_IF_ERROR(check_tensor("places", places, 2));
  if (places.shape[1] != 2)
    return invalid("places have shape {}, expected 2 columns", places.shape.to_string());
  // They are made of the key, where the op is computed: bounded as what crosses is.
  const std::vector<Shape> shapes = weight_shapes(spec, dims);
  RETURN_IF_ERROR(check_tensor("the pads", {DType::kU32, Shape{places.shape[0], shapes[0][1]}}, 2));
  return integer_results(spec, dims, places.shape[0]);
}

/// What holds for every op: the fields that belong to one op only, and the input count.
Status check_common(const OpSpec& spec, std::size_t input_count) {
  const std::string_view op = name_of(spec.op);
  if (spec.inputs.size() != input_count)
    return invalid("{} has {} inputs, expected {}", op, spec.inputs.size(), input_count);
  const bool may_be_fp64 = spec.op == Op::kMatmul && spec.result_dtype == DType::kF64;
  const bool may_be_int8 =
      (spec.op == Op::kEmbedding || spec.op == Op::kBatchLinear) && spec.result_dtype == DType::kI8;
  const bool integer = is_integer(spec.op);
  if (!integer && spec.planes != 0) return invalid("{} with {} planes", op, spec.planes);
  if (!integer && !may_be_fp64 && !may_be_int8 && !is_model_float(spec.result_dtype)) {
    return invalid("{}'s result dtype is {}, expected a float type", op,
                   name_of(spec.result_dtype));
  }
  if (!integer && spec.op != Op::kBatchLinear && !spec.weights.empty())
    return invalid("{} names {} weights, expected none", op, spec.weights.size());
  if (spec.op != Op::kMatmul && spec.transpose != Transpose::kNone)
    return invalid("{} with a transposition", op);
  return {};
}

}  // namespace

Status ModelDims::check() const {
  RETURN_IF_ERROR(check_range("hidden size", hidden, limits::kMaxHidden));
  RETURN_IF_ERROR(check_range("intermediate size", intermediate, limits::kMaxIntermediate));
  RETURN_IF_ERROR(check_range("layers", layers, limits::kMaxLayers));
  RETURN_IF_ERROR(check_range("heads", heads, limits::kMaxHeads));
  RETURN_IF_ERROR(check_range("kv heads", kv_heads, limits::kMaxHeads));
  RETURN_IF_ERROR(check_range("head size", head_dim, limits::kMaxHeadDim));
  RETURN_IF_ERROR(check_range("vocabulary size", vocab, limits::kMaxVocab));
  if (heads % kv_heads == 0) return {};
  return invalid("{} heads are no multiple of {} kv heads", heads, kv_heads);
}

std::span<const WeightKind> kinds_of(Linear linear) {
  // A linear's kinds stand side by side.
  constexpr auto kOf = [](WeightKind kind) { return linear_of(kind); };
  return {std::ranges::lower_bound(kValuesOf<WeightKind>, linear, {}, kOf),
          std::ranges::upper_bound(kValuesOf<WeightKind>, linear, {}, kOf)};
}

std::vector<WeightId> weights_of(Linear linear, std::uint16_t layer) {
  std::vector<WeightId> weights;
  for (const WeightKind kind : kinds_of(linear)) weights.push_back({kind, layer});
  return weights;
}

Shape weight_shape(const ModelDims& dims, WeightKind kind) {
  switch (kind) {
    case WeightKind::kQ:
      return {dims.heads * dims.head_dim, dims.hidden};
    case WeightKind::kK:
    case WeightKind::kV:
      return {dims.kv_heads * dims.head_dim, dims.hidden};
    case WeightKind::kO:
      return {dims.hidden, dims.heads * dims.head_dim};
    case WeightKind::kGate:
    case WeightKind::kUp:
      return {dims.intermediate, dims.hidden};
    case WeightKind::kDown:
      return {dims.hidden, dims.intermediate};
  }
  return {0, 0};
}

Result<std::vector<TensorDesc>> op_results(const OpSpec& spec, const ModelDims& dims) {
  const bool needs_model = is_computed(spec.op) && spec.op != Op::kMatmul;
  if (needs_model && dims.is_none())
    return invalid("{}: this server has no model (--no-model)", name_of(spec.op));
  switch (spec.op) {
    case Op::kEmbedding:
      RETURN_IF_ERROR(check_common(spec, 1));
      return embedding_results(spec, dims);
    case Op::kBatchLinear:
      RETURN_IF_ERROR(check_common(spec, 1));
      return linear_results(spec, dims);
    case Op::kMatmul:
      RETURN_IF_ERROR(check_common(spec, 2));
      return matmul_results(spec);
    case Op::kLmHead:
      RETURN_IF_ERROR(check_common(spec, 1));
      return lm_head_results(spec, dims);
    case Op::kPing:
      RETURN_IF_ERROR(check_common(spec, 0));
      return std::vector<TensorDesc>{};
    case Op::kIntLinear:
      RETURN_IF_ERROR(check_common(spec, 1));
      return int_linear_results(spec, dims);
    case Op::kPadLinear:
      RETURN_IF_ERROR(check_common(spec, 2));
      return pad_linear_results(spec, dims);
    case Op::kInit:
    case Op::kStats:
      break;
  }
  return invalid("the results of {} are sized by the server", name_of(spec.op));
}

// No overflow: limits.h bounds a matmul by 2^62, the others by less.
std::uint64_t op_flop(const OpSpec& spec, const ModelDims& dims) {
  std::int64_t flop = 0;
  switch (spec.op) {
    case Op::kBatchLinear:
      for (const WeightId& weight : spec.weights) {
        const Shape shape = weight_shape(dims, weight.kind);
        flop += 2 * spec.inputs[0].shape[0] * shape[0] * shape[1];
      }
      break;
    case Op::kMatmul: {
      // a [heads, m, k], whichever way it lies.
      const Shape& a = spec.inputs[0].shape;
      flop = 2 * a[0] * a[1] * a[2] * spec.inputs[1].shape[spec.transpose == Transpose::kB ? 1 : 2];
      break;
    }
    case Op::kLmHead:
      flop = 2 * spec.inputs[0].shape[0] * dims.hidden * dims.vocab;
      break;
    case Op::kIntLinear:
    case Op::kPadLinear: {
      // A row of 32-bit words is four rows of 8-bit digits.
      const std::int64_t rows = spec.inputs.back().shape[0];
      for (const Shape& shape : weight_shapes(spec, dims))
        flop += 4 * spec.planes * 2 * rows * shape[0] * shape[1];
      break;
    }
    case Op::kInit:
    case Op::kEmbedding:
    case Op::kStats:
    case Op::kPing:
      break;
  }
  return static_cast<std::uint64_t>(flop);
}

OpSpec embedding_spec(std::int64_t tokens, DType result_dtype) {
  return {
      .op = Op::kEmbedding, .result_dtype = result_dtype, .inputs = {{DType::kI32, Shape{tokens}}}};
}

OpSpec linear_spec(std::vector<WeightId> weights, const TensorDesc& input, DType result_dtype) {
  return {.op = Op::kBatchLinear,
          .weights = std::move(weights),
          .result_dtype = result_dtype,
          .inputs = {input}};
}

OpSpec matmul_spec(const TensorDesc& a, const TensorDesc& b, Transpose transpose,
                   DType result_dtype) {
  return {
      .op = Op::kMatmul, .result_dtype = result_dtype, .transpose = transpose, .inputs = {a, b}};
}

OpSpec lm_head_spec(const TensorDesc& input) { return {.op = Op::kLmHead, .inputs = {input}}; }

OpSpec int_linear_spec(std::vector<WeightId> weights, std::uint8_t planes, std::int64_t rows,
                       const ModelDims& dims) {
  OpSpec spec{.op = Op::kIntLinear,
              .weights = std::move(weights),
              .result_dtype = DType::kU32,
              .planes = planes};
  spec.inputs = {{DType::kU32, Shape{rows, weight_shapes(spec, dims)[0][1]}}};
  return spec;
}

OpSpec pad_linear_spec(std::vector<WeightId> weights, std::uint8_t planes, std::int64_t rows) {
  return {.op = Op::kPadLinear,
          .weights = std::move(weights),
          .result_dtype = DType::kU32,
          .planes = planes,
          .inputs = {{DType::kU8, Shape{kPadKeyBytes}}, {DType::kU32, Shape{rows, 2}}}};
}

Linear linear_of(const OpSpec& spec) {
  return spec.weights.empty() ? Linear::kLmHead : linear_of(spec.weights[0].kind);
}

std::uint16_t layer_of(const OpSpec& spec) {
  return spec.weights.empty() ? std::uint16_t{0} : spec.weights[0].layer;
}

std::vector<Shape> weight_shapes(const OpSpec& spec, const ModelDims& dims) {
  if (spec.weights.empty()) return {Shape{dims.vocab, dims.hidden}};
  std::vector<Shape> shapes;
  shapes.reserve(spec.weights.size());
  for (const WeightId& weight : spec.weights) shapes.push_back(weight_shape(dims, weight.kind));
  return shapes;
}

}  // namespace airlock
