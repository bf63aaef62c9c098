#include "tests/quality/outliers.h"

#include <fmt/format.h>

#include "base/check.h"
#include "base/convert.h"

namespace airlock::testing {

namespace {

/// Channel number `which` of a layer's outliers among `count`: spread out, and another in the next
/// layer.
std::int64_t channel_of(std::uint16_t layer, int which, std::int64_t count) {
  return (7 + 37 * std::int64_t{layer} + which * (count / 5 + 1)) % count;
}

}  // namespace

OutlierModel::OutlierModel(const ModelSource& inner, const Outliers& outliers) : inner_(inner) {
  CHECK(!outliers.factors.empty());
  for (std::int64_t layer = 0; layer < inner.config().dims.layers; ++layer)
    enlarge_layer(static_cast<std::uint16_t>(layer), outliers);
}

void OutlierModel::enlarge_norm(const std::string& norm, const std::vector<std::string>& takers,
                                std::int64_t channel, double factor) {
  factors_[norm].columns[channel] = factor;
  for (const std::string& taker : takers) factors_[taker].columns[channel] = 1 / factor;
}

void OutlierModel::enlarge_layer(std::uint16_t layer, const Outliers& outliers) {
  const ModelDims& dims = inner_.config().dims;
  const auto name = [layer](WeightKind kind) {
    return weight_name({.kind = kind, .layer = layer});
  };
  std::size_t turn = layer;
  const auto next_factor = [&] { return outliers.factors[turn++ % outliers.factors.size()]; };
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  for (int i = 0; i < outliers.norm_channels; ++i) {
    enlarge_norm(prefix + "input_layernorm.weight",
                 {name(WeightKind::kQ), name(WeightKind::kK), name(WeightKind::kV)},
                 channel_of(layer, i, dims.hidden), next_factor());
    enlarge_norm(prefix + "post_attention_layernorm.weight",
                 {name(WeightKind::kGate), name(WeightKind::kUp)},
                 channel_of(layer, i + 1, dims.hidden), next_factor());
  }
  for (int i = 0; i < outliers.up_channels; ++i) {
    const std::int64_t channel = channel_of(layer, i, dims.intermediate);
    const double factor = next_factor();
    factors_[name(WeightKind::kUp)].rows[channel] = factor;
    factors_[name(WeightKind::kDown)].columns[channel] = 1 / factor;
  }
  for (int i = 0; i < outliers.value_channels; ++i) {
    const std::int64_t channel = channel_of(layer, i, dims.kv_heads * dims.head_dim);
    const double factor = next_factor();
    factors_[name(WeightKind::kV)].rows[channel] = factor;
    // Each of the heads that share these values passes the channel on.
    const std::int64_t group = dims.heads / dims.kv_heads;
    const std::int64_t first_head = channel / dims.head_dim * group;
    for (std::int64_t head = first_head; head < first_head + group; ++head) {
      const std::int64_t column = head * dims.head_dim + channel % dims.head_dim;
      factors_[name(WeightKind::kO)].columns[column] = 1 / factor;
    }
  }
}

Status OutlierModel::read_rows(const std::string& name, std::int64_t first_row,
                               MutableTensorView out) const {
  const auto found = factors_.find(name);
  if (found == factors_.end()) return inner_.read_rows(name, first_row, out);
  Tensor exact({DType::kF32, out.desc.shape});
  RETURN_IF_ERROR(inner_.read_rows(name, first_row, exact.mutable_view()));
  const std::span<float> values = exact.as<float>();
  const bool is_norm = out.desc.shape.rank() == 1;
  const std::size_t rows = is_norm ? 1 : static_cast<std::size_t>(out.desc.shape[0]);
  const std::size_t columns = values.size() / rows;
  const auto scale = [](float& value, double factor) {
    value = static_cast<float>(static_cast<double>(value) * factor);
  };
  for (const auto& [row, factor] : found->second.rows) {
    const std::int64_t at = row - first_row;
    if (at < 0 || at >= static_cast<std::int64_t>(rows)) continue;
    for (float& value : values.subspan(static_cast<std::size_t>(at) * columns, columns))
      scale(value, factor);
  }
  for (const auto& [column, factor] : found->second.columns) {
    for (std::size_t row = 0; row < rows; ++row)
      scale(values[row * columns + static_cast<std::size_t>(column)], factor);
  }
  store_f32(out.desc.dtype, values.data(), out.data, values.size());
  return {};
}

}  // namespace airlock::testing
