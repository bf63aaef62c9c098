#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runtime/exact/int8_weights.h"
#include "runtime/model/digest.h"

namespace airlock::testing {

/// One linear's int8 as the rule of int8_weights.h has them, made a second time: whole matrices,
/// one step after the other, no shared code.
struct NaiveLinear {
  std::vector<std::int8_t> exponents;
  std::vector<float> scales;
  // [planes][rows of all weights, columns]
  std::vector<std::vector<std::int8_t>> planes;
  std::int64_t most_l1 = 0;
  std::int64_t most_l2_squared = 0;
  std::int64_t most_abs = 0;
};

struct Matrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<float> values;

  double at(std::int64_t row, std::int64_t column) const {
    return static_cast<double>(values[static_cast<std::size_t>(row * columns + column)]);
  }
};

inline Matrix read_matrix(const ModelSource& model, const std::string& name, std::int64_t rows,
                          std::int64_t columns) {
  Tensor tensor({.dtype = DType::kF32, .shape = {rows, columns}});
  CHECK(model.read_rows(name, 0, tensor.mutable_view()).ok());
  const auto values = tensor.as<float>();
  return {rows, columns, {values.begin(), values.end()}};
}

inline Matrix read_weight(const ModelSource& model, WeightKind kind, std::int64_t layer) {
  const Shape shape = weight_shape(model.config().dims, kind);
  return read_matrix(model, weight_name({kind, static_cast<std::uint16_t>(layer)}), shape[0],
                     shape[1]);
}

/// The largest e with 2^(2e - 1) <= ratio, counted out.
inline int naive_exponent(double ratio) {
  int e = -600;
  while (std::ldexp(1.0, 2 * (e + 1) - 1) <= ratio) ++e;
  return e;
}

inline std::vector<std::int8_t> naive_exponents(const std::vector<double>& sizes,
                                                const std::vector<double>& rms) {
  std::vector<int> all(sizes.size(), 0);
  double sum = 0;
  double count = 0;
  for (std::size_t j = 0; j < sizes.size(); ++j) {
    if (sizes[j] == 0 || rms[j] == 0) continue;
    all[j] = naive_exponent(sizes[j] / rms[j]);
    sum += all[j];
    ++count;
  }
  const int mean = count > 0 ? static_cast<int>(std::floor((2 * sum + count) / (2 * count))) : 0;
  std::vector<std::int8_t> exponents;
  for (const int e : all)
    exponents.push_back(static_cast<std::int8_t>(std::min(30, std::max(-30, e - mean))));
  return exponents;
}

inline std::int8_t naive_round(double value) {
  return static_cast<std::int8_t>(std::min(127.0, std::max(-127.0, std::nearbyint(value))));
}

/// Of weights that lie one behind the other in `all`.
inline NaiveLinear naive_linear(const Matrix& all, const std::vector<double>& sizes,
                                Int8Weights choice) {
  std::vector<double> rms;
  for (std::int64_t j = 0; j < all.columns; ++j) {
    double sum = 0;
    for (std::int64_t i = 0; i < all.rows; ++i) sum += all.at(i, j) * all.at(i, j);
    rms.push_back(std::sqrt(sum / static_cast<double>(all.rows)));
  }
  NaiveLinear made;
  made.exponents = naive_exponents(sizes, rms);
  bool coarse = false;
  std::vector<std::int8_t> first;
  std::vector<std::int8_t> second;
  for (std::int64_t i = 0; i < all.rows; ++i) {
    std::vector<double> row;
    double most = 0;
    double squares = 0;
    for (std::int64_t j = 0; j < all.columns; ++j) {
      row.push_back(std::ldexp(all.at(i, j), made.exponents[static_cast<std::size_t>(j)]));
      most = std::max(most, std::fabs(row.back()));
      squares += row.back() * row.back();
    }
    coarse = coarse || most > 24 * std::sqrt(squares / static_cast<double>(all.columns));
    const auto scale = static_cast<float>(most / 127);
    made.scales.push_back(scale);
    const auto wide = static_cast<double>(scale);
    for (const double value : row) {
      first.push_back(wide == 0 ? std::int8_t{0} : naive_round(value / wide));
      const double rest = value - wide * static_cast<double>(first.back());
      second.push_back(wide == 0 ? std::int8_t{0} : naive_round(rest / (wide / 254)));
    }
  }
  made.planes.push_back(first);
  if (choice == Int8Weights::kW16 || (choice == Int8Weights::kAuto && coarse))
    made.planes.push_back(second);
  for (const auto& plane : made.planes) {
    for (std::size_t start = 0; start < plane.size();
         start += static_cast<std::size_t>(all.columns)) {
      std::int64_t l1 = 0;
      std::int64_t l2 = 0;
      for (std::size_t j = start; j < start + static_cast<std::size_t>(all.columns); ++j) {
        const std::int64_t value = plane[j];
        l1 += std::abs(value);
        l2 += value * value;
        made.most_abs = std::max(made.most_abs, std::abs(value));
      }
      made.most_l1 = std::max(made.most_l1, l1);
      made.most_l2_squared = std::max(made.most_l2_squared, l2);
    }
  }
  return made;
}

inline Matrix behind_each_other(const std::vector<Matrix>& parts) {
  Matrix all{0, parts[0].columns, {}};
  for (const Matrix& part : parts) {
    all.rows += part.rows;
    all.values.insert(all.values.end(), part.values.begin(), part.values.end());
  }
  return all;
}

/// The norm of each row times `factors`, elementwise.
inline std::vector<double> row_norms(const Matrix& matrix, const std::vector<double>& factors) {
  std::vector<double> norms;
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    double sum = 0;
    for (std::int64_t j = 0; j < matrix.columns; ++j) {
      const double value = matrix.at(i, j) * factors[static_cast<std::size_t>(j)];
      sum += value * value;
    }
    norms.push_back(std::sqrt(sum));
  }
  return norms;
}

/// All linears, by layer; lm_head behind the last one.
inline std::map<std::pair<std::int64_t, Linear>, NaiveLinear> naive_model(const ModelSource& model,
                                                                          Int8Weights choice) {
  const LlamaConfig& config = model.config();
  const ModelDims& dims = config.dims;
  const Tensor norms = read_norms(model).value();
  const auto gamma = [&](std::int64_t index) {
    std::vector<double> sizes;
    for (std::int64_t j = 0; j < dims.hidden; ++j)
      sizes.push_back(std::fabs(static_cast<double>(
          norms.as<float>()[static_cast<std::size_t>(index * dims.hidden + j)])));
    return sizes;
  };
  std::map<std::pair<std::int64_t, Linear>, NaiveLinear> made;
  for (std::int64_t layer = 0; layer < dims.layers; ++layer) {
    const auto weight = [&](WeightKind kind) { return read_weight(model, kind, layer); };
    const Matrix v = weight(WeightKind::kV);
    const Matrix gate = weight(WeightKind::kGate);
    const Matrix up = weight(WeightKind::kUp);
    made[{layer, Linear::kQkv}] =
        naive_linear(behind_each_other({weight(WeightKind::kQ), weight(WeightKind::kK), v}),
                     gamma(2 * layer), choice);
    const auto v_norms = row_norms(v, gamma(2 * layer));
    std::vector<double> sizes;
    for (std::int64_t j = 0; j < dims.heads * dims.head_dim; ++j) {
      const std::int64_t group = j / dims.head_dim / (dims.heads / dims.kv_heads);
      sizes.push_back(v_norms[static_cast<std::size_t>(group * dims.head_dim + j % dims.head_dim)]);
    }
    made[{layer, Linear::kO}] = naive_linear(weight(WeightKind::kO), sizes, choice);
    made[{layer, Linear::kGateUp}] =
        naive_linear(behind_each_other({gate, up}), gamma(2 * layer + 1), choice);
    auto products = row_norms(up, gamma(2 * layer + 1));
    const auto gate_norms = row_norms(gate, gamma(2 * layer + 1));
    for (std::size_t j = 0; j < products.size(); ++j) products[j] *= gate_norms[j];
    made[{layer, Linear::kDown}] = naive_linear(weight(WeightKind::kDown), products, choice);
  }
  const std::string head = config.tie_word_embeddings ? kEmbedName : kLmHeadName;
  made[{dims.layers, Linear::kLmHead}] = naive_linear(
      read_matrix(model, head, dims.vocab, dims.hidden), gamma(2 * dims.layers), choice);
  return made;
}

}  // namespace airlock::testing
