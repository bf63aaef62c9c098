#include "runtime/cpu/int_product.h"

#include <algorithm>

#include "runtime/cpu/int8_weights_held.h"

namespace airlock {

namespace {

// Of a piece: a panel from memory meets so many rows of digits before it is needed no more.
constexpr std::int64_t kUsualDigitRows = kDigitRowCounts.back();
constexpr std::int64_t kLeastDigitRows = 32;
// Multiplications and additions: some milliseconds of one core.
constexpr std::int64_t kMostFlop = std::int64_t{1} << 32;
constexpr std::size_t kLine = 64;

/// The sums of a word's digits, [digits, width] -> one row of the result, mod 2^32.
void combine(const std::int32_t* sums, int digits, std::int64_t width, std::int64_t columns,
             std::uint32_t* to) {
  const auto sum = [&](int digit, std::int64_t column) {
    return static_cast<std::uint32_t>(sums[digit * width + column]) << (8 * digit);
  };
  for (std::int64_t i = 0; i < columns; ++i) {
    std::uint32_t word = sum(0, i);
    for (int digit = 1; digit < digits; ++digit) word += sum(digit, i);
    to[i] = word;
  }
}

}  // namespace

std::int64_t IntProduct::most_digit_rows(std::int64_t k) {
  const std::int64_t most = kMostFlop / (2 * kPanelColumns * k);
  return std::clamp(most / kLeastDigitRows * kLeastDigitRows, kLeastDigitRows, kUsualDigitRows);
}

IntProduct::IntProduct(onednn::ProductCache& cache, const DigitRows& rows,
                       const std::int8_t* digits, const HeldWeight& weight, std::byte* result)
    : rows_(&rows),
      digits_(digits),
      weight_(&weight),
      result_(result),
      columns_(weight.n, kPanelColumns) {
  std::int64_t most_rows = 0;
  for (const DigitRows::Group& group : rows.groups) {
    most_rows = std::max(most_rows, group.digit_rows);
    const auto [entry, is_new] = calls_.try_emplace(group.digit_rows);
    if (!is_new) continue;
    for (const bool last : {false, true}) {
      const std::int64_t part = last ? columns_.parts() - 1 : 0;
      onednn::CallKey key{1, group.digit_rows, weight.k, padded_columns(columns_.size(part))};
      key.b = onednn::Right::kPacked;
      key.result = DType::kI32;
      onednn::Call& call = cache.get(key, *weight.panel(columns_.begin(part)).layout);
      entry->second[last ? 1 : 0] = &call;
      scratchpad_bytes_ = std::max(scratchpad_bytes_, call.scratchpad_bytes());
    }
  }
  const std::int64_t sums = most_rows * std::min(kPanelColumns, padded_columns(weight.n));
  const std::size_t bytes = static_cast<std::size_t>(sums) * sizeof(std::int32_t);
  block_bytes_ = (bytes + kLine - 1) / kLine * kLine;
}

void IntProduct::run(std::size_t piece, std::size_t worker, std::byte* memory,
                     dnnl::stream& stream) const {
  // Pieces that meet the same panel follow each other.
  const std::size_t group_count = rows_->groups.size();
  const DigitRows::Group& group = rows_->groups[piece % group_count];
  const auto part = static_cast<std::int64_t>(piece / group_count);
  const std::int64_t column = columns_.begin(part);
  const std::int64_t columns = columns_.size(part);
  const std::int64_t width = padded_columns(columns);
  const std::int8_t* left = digits_ + group.first_digit_row * weight_->k;
  onednn::Call& call = *calls_.at(group.digit_rows)[part == columns_.parts() - 1 ? 1 : 0];
  call.run(worker, stream, reinterpret_cast<const std::byte*>(left), weight_->panel(column).data,
           memory, memory + block_bytes_);
  const auto* sums = reinterpret_cast<const std::int32_t*>(memory);
  auto* to = reinterpret_cast<std::uint32_t*>(result_) + group.first_row * weight_->n + column;
  for (std::int64_t row = 0; row < group.rows; ++row, to += weight_->n) {
    const int digits = rows_->digits[static_cast<std::size_t>(group.first_row + row)];
    combine(sums, digits, width, columns, to);
    sums += digits * width;
  }
}

}  // namespace airlock
