#include "tests/quality/naive_rounding.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "base/convert.h"

namespace airlock::testing {

namespace {

/// x becomes s rint(x / s).
void round_to(std::span<float> row, double scale) {
  if (scale == 0) return;
  for (float& value : row) {
    const double units = std::rint(static_cast<double>(value) / scale);
    value = static_cast<float>(units * scale);
  }
}

double largest(std::span<const float> row) {
  float most = 0;
  for (const float value : row) most = std::max(most, std::abs(value));
  return static_cast<double>(most);
}

double mean(std::span<const float> row) {
  double sum = 0;
  for (const float value : row) sum += std::abs(static_cast<double>(value));
  return sum / static_cast<double>(row.size());
}

/// Rounds its input when all of it is there.
class RoundingPending : public ForwardingPending {
 public:
  RoundingPending(std::unique_ptr<Pending> inner, const ActivationRule& rule,
                  std::vector<std::int8_t> exponents)
      : ForwardingPending(std::move(inner)), rule_(rule), exponents_(std::move(exponents)) {}

  Status submit() override {
    const std::span<float> x = ForwardingPending::input(0).as<float>();
    const std::size_t columns = exponents_.size();
    for (std::size_t start = 0; start < x.size(); start += columns)
      round_row(x.subspan(start, columns));
    return ForwardingPending::submit();
  }

 private:
  void round_row(std::span<float> row) const {
    for (std::size_t j = 0; j < row.size(); ++j) row[j] = std::ldexp(row[j], -exponents_[j]);
    const bool by_mean = rule_.scale == ActivationRule::Scale::kMean;
    round_to(row, (by_mean ? mean(row) : largest(row)) / rule_.units);
    for (std::size_t j = 0; j < row.size(); ++j) row[j] = std::ldexp(row[j], exponents_[j]);
  }

  const ActivationRule rule_;
  const std::vector<std::int8_t> exponents_;  // of each column
};

}  // namespace

Status RoundedModel::read_rows(const std::string& name, std::int64_t first_row,
                               MutableTensorView out) const {
  const bool is_embedding = name == kEmbedName && !config().tie_word_embeddings;
  if (out.desc.shape.rank() == 1 || name.ends_with("norm.weight") || is_embedding)
    return inner_.read_rows(name, first_row, out);
  Tensor exact({DType::kF32, out.desc.shape});
  RETURN_IF_ERROR(inner_.read_rows(name, first_row, exact.mutable_view()));
  const std::span<float> values = exact.as<float>();
  const auto columns = static_cast<std::size_t>(out.desc.shape[1]);
  for (std::size_t start = 0; start < values.size(); start += columns) {
    const std::span<float> row = values.subspan(start, columns);
    round_to(row, largest(row) / kInt8Most);
  }
  store_f32(out.desc.dtype, values.data(), out.data, values.size());
  return {};
}

Result<std::unique_ptr<Pending>> RoundingBackend::prepare(const OpSpec& spec, Deadline deadline) {
  if (spec.op != Op::kBatchLinear && spec.op != Op::kLmHead) return others_.prepare(spec, deadline);
  ASSIGN_OR_RETURN(auto pending, linears_.prepare(spec, deadline));
  std::vector<std::int8_t> exponents(static_cast<std::size_t>(spec.inputs[0].shape[1]));
  if (rule_.columns != nullptr) {
    const Linear linear = linear_of(spec);
    const std::uint16_t layer = linear == Linear::kLmHead ? std::uint16_t{0} : layer_of(spec);
    exponents = rule_.columns->linear(linear, layer).column_exponents;
  }
  return std::unique_ptr<Pending>(
      std::make_unique<RoundingPending>(std::move(pending), rule_, std::move(exponents)));
}

}  // namespace airlock::testing
