#include "tests/support/reference_ops.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "base/check.h"
#include "base/convert.h"

namespace airlock::testing {

namespace {

std::vector<double> to_doubles(TensorView view) {
  if (view.desc.dtype == DType::kF64) {
    const auto values = view.as<double>();
    return {values.begin(), values.end()};
  }
  std::vector<float> values(view.desc.elements());
  load_f32(view.desc.dtype, view.data, values.data(), values.size());
  return {values.begin(), values.end()};
}

/// fp64 stays what it is.
std::vector<double> rounded(TensorView view, DType dtype) {
  if (view.desc.dtype == DType::kF64) return to_doubles(view);
  Tensor tensor(TensorDesc{dtype, view.desc.shape});
  convert(view, tensor.mutable_view());
  return to_doubles(tensor.view());
}

/// A matrix among others, element (i, j) at data[i * row_stride + j * column_stride].
struct Matrix {
  const double* data;
  std::size_t row_stride;
  std::size_t column_stride;
  double at(std::size_t i, std::size_t j) const { return data[i * row_stride + j * column_stride]; }
};

struct ProductSize {
  std::size_t m, k, n;
};

void append_product(const Matrix& a, const Matrix& b, const ProductSize& size,
                    ReferenceResult& out) {
  out.terms = static_cast<std::int64_t>(size.k);
  for (std::size_t i = 0; i < size.m; ++i) {
    for (std::size_t j = 0; j < size.n; ++j) {
      double sum = 0;
      double magnitude = 0;
      for (std::size_t p = 0; p < size.k; ++p) {
        const double term = a.at(i, p) * b.at(p, j);
        sum += term;
        magnitude += std::abs(term);
      }
      out.values.push_back(sum);
      out.magnitudes.push_back(magnitude);
    }
  }
}

ReferenceResult times_weight(const MemoryModel& model, DType dtype, const std::string& name,
                             TensorView x) {
  const std::vector<double> values = rounded(x, dtype);
  const std::vector<float> stored = model.values(name, dtype);
  const std::vector<double> weight(stored.begin(), stored.end());
  const Shape shape = model.shape(name);
  const auto k = static_cast<std::size_t>(shape[1]);
  ReferenceResult result;
  append_product({values.data(), k, 1}, {weight.data(), 1, k},
                 {static_cast<std::size_t>(x.desc.shape[0]), k, static_cast<std::size_t>(shape[0])},
                 result);
  return result;
}

ReferenceResult embedding(const MemoryModel& model, DType dtype, TensorView ids) {
  const std::vector<float> table = model.values(kEmbedName, dtype);
  const auto hidden = static_cast<std::size_t>(model.config().dims.hidden);
  ReferenceResult result;
  for (const std::int32_t id : ids.as<std::int32_t>()) {
    for (std::size_t column = 0; column < hidden; ++column) {
      result.values.push_back(
          static_cast<double>(table[static_cast<std::size_t>(id) * hidden + column]));
      result.magnitudes.push_back(0);  // nothing is summed
    }
  }
  return result;
}

ReferenceResult matmul(DType dtype, Transpose transpose, TensorView a_view, TensorView b_view) {
  const std::vector<double> a = rounded(a_view, dtype);
  const std::vector<double> b = rounded(b_view, dtype);
  const auto extent = [](TensorView view, std::size_t axis) {
    return static_cast<std::size_t>(view.desc.shape[axis]);
  };
  const bool at = transpose == Transpose::kA;
  const bool bt = transpose == Transpose::kB;
  const std::size_t heads = extent(a_view, 0);
  const std::size_t heads_per_group = heads / extent(b_view, 0);
  const ProductSize size{extent(a_view, at ? 2 : 1), extent(a_view, at ? 1 : 2),
                         extent(b_view, bt ? 1 : 2)};
  ReferenceResult result;
  for (std::size_t head = 0; head < heads; ++head) {
    const double* a_data = a.data() + head * size.m * size.k;
    const double* b_data = b.data() + head / heads_per_group * size.k * size.n;
    append_product(at ? Matrix{a_data, 1, size.m} : Matrix{a_data, size.k, 1},
                   bt ? Matrix{b_data, 1, size.k} : Matrix{b_data, size.n, 1}, size, result);
  }
  return result;
}

double roundoff_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return 0x1p-53;
    case DType::kF32:
      return 0x1p-24;
    case DType::kF16:
      return 0x1p-11;
    default:
      return 0x1p-8;
  }
}

}  // namespace

std::vector<ReferenceResult> reference_op(const MemoryModel& model, DType dtype, const OpSpec& spec,
                                          std::span<const TensorView> inputs) {
  switch (spec.op) {
    case Op::kEmbedding:
      return {embedding(model, dtype, inputs[0])};
    case Op::kMatmul:
      return {matmul(dtype, spec.transpose, inputs[0], inputs[1])};
    case Op::kLmHead:
      return {times_weight(
          model, dtype, model.config().tie_word_embeddings ? kEmbedName : kLmHeadName, inputs[0])};
    case Op::kBatchLinear: {
      std::vector<ReferenceResult> results;
      for (const WeightId& id : spec.weights) {
        results.push_back(times_weight(model, dtype, weight_name(id), inputs[0]));
      }
      return results;
    }
    default:
      return {};
  }
}

std::size_t count_outside_tolerance(TensorView result, const ReferenceResult& reference,
                                    double& worst) {
  const std::vector<double> got = to_doubles(result);
  CHECK(got.size() == reference.values.size());
  const bool is_f64 = result.desc.dtype == DType::kF64;
  const double roundoff = roundoff_of(result.desc.dtype);
  // The reference is summed in fp64 itself, and may be wrong by as much as an fp64 result.
  const double accumulation =
      static_cast<double>(reference.terms) * (is_f64 ? 2 * 0x1p-53 : 0x1p-24);
  const double subnormal = is_f64 ? 0 : 0x1p-25;  // fp16's
  std::size_t outside = 0;
  worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double tolerance = 1.01 * roundoff * std::abs(reference.values[i]) +
                             accumulation * reference.magnitudes[i] + subnormal;
    const double error = std::abs(got[i] - reference.values[i]);
    worst = std::isnan(error) ? error : std::max(worst, error / tolerance);
    if (!(error <= tolerance)) ++outside;
  }
  return outside;
}

Tensor random_tensor(const TensorDesc& desc, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  if (desc.dtype == DType::kF64) {
    std::uniform_real_distribution<double> uniform(-1.0, 1.0);
    Tensor tensor(desc);
    for (double& value : tensor.as<double>()) value = uniform(random);
    return tensor;
  }
  std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
  std::vector<float> values(desc.elements());
  for (float& value : values) value = uniform(random);
  Tensor tensor(desc);
  store_f32(desc.dtype, values.data(), tensor.mutable_view().data, values.size());
  return tensor;
}

Tensor token_tensor(std::span<const std::int32_t> ids) {
  Tensor tensor(TensorDesc{DType::kI32, Shape{static_cast<std::int64_t>(ids.size())}});
  std::copy(ids.begin(), ids.end(), tensor.as<std::int32_t>().begin());
  return tensor;
}

}  // namespace airlock::testing
