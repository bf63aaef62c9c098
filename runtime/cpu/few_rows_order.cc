#include "runtime/cpu/few_rows_order.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstring>
#include <vector>

#include "base/mix.h"
#include "runtime/cpu/onednn.h"

namespace airlock::few_rows {

namespace {

using Desc = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;

// One row, few, and a whole piece.
constexpr std::array<std::int64_t, 3> kTriedRows = {1, 7, 4 * kMostRows};
constexpr std::int64_t kMostTriedRows = kTriedRows.back();
// Values that oneDNN 2.6 sums before it begins anew: 1024, or 512 up to k = 1024. The others are
// for its other versions.
constexpr std::int64_t kTriedChunks[] = {1024, 512, 2048, 256, 4096, 128, 64};

/// A product to try: memory of all that it needs, at random.
struct Trial {
  DType held = DType::kF32;
  std::int64_t k = 0;
  std::int64_t n = 0;
  Layout layout;
  std::vector<std::byte> x;      // [kMostTriedRows, k]
  std::vector<std::byte> right;  // blocks
  std::size_t row_bytes = 0;

  std::int64_t blocks() const { return (n + kBlockColumns - 1) / kBlockColumns; }
};

/// A number below two, of either sign, as `held` lies in memory. Of numbers that are about as large
/// as each other the sums would be exact in bf16, and every order as good.
void put_random(DType held, std::uint64_t seed, std::byte* to) {
  const std::uint64_t random = mix(seed);
  // The sign, 120 to 127 as exponent, and all bits of the fraction.
  const auto bits = static_cast<std::uint32_t>((random & 0x83ffffffU) + 0x3c000000U);
  if (held == DType::kF32) {
    std::memcpy(to, &bits, sizeof bits);
  } else {
    const auto upper = static_cast<std::uint16_t>(bits >> 16);
    std::memcpy(to, &upper, sizeof upper);
  }
}

Trial make_trial(DType held, std::int64_t k, std::int64_t n) {
  Trial trial{held, k, n, Layout::of(held, k), {}, {}, 0};
  const std::size_t value_bytes = dtype_bytes(held);
  trial.row_bytes = static_cast<std::size_t>(k) * value_bytes;
  trial.x.resize(static_cast<std::size_t>(kMostTriedRows) * trial.row_bytes);
  std::uint64_t seed = 0;
  for (std::size_t at = 0; at < trial.x.size(); at += value_bytes) {
    put_random(held, ++seed, &trial.x[at]);
  }
  trial.right.resize(static_cast<std::size_t>(trial.blocks()) * trial.layout.block_bytes);
  for (std::int64_t column = 0; column < n; ++column) {
    std::byte* to = trial.right.data() +
                    static_cast<std::size_t>(column / kBlockColumns) * trial.layout.block_bytes +
                    static_cast<std::size_t>(column % kBlockColumns) * sizeof(std::uint32_t);
    for (std::int64_t word = 0; word < trial.layout.words; ++word, to += kWordsBytes) {
      for (std::size_t at = 0; at < sizeof(std::uint32_t); at += value_bytes) {
        put_random(held, ++seed, to + at);
      }
    }
  }
  return trial;
}

/// [rows, n] of `result` as oneDNN computes it.
std::vector<std::byte> by_onednn(const dnnl::engine& engine, Trial& trial, const Desc& layout,
                                 std::int64_t rows, DType result) {
  const auto type = onednn::data_type(trial.held);
  onednn::Call call(engine, {{rows, trial.k}, type, Tag::ab}, layout,
                    {{rows, trial.n}, onednn::data_type(result), Tag::ab}, 1);
  std::vector<std::byte> to(static_cast<std::size_t>(rows * trial.n) * dtype_bytes(result));
  std::vector<std::byte> scratchpad(call.scratchpad_bytes() + 64);
  dnnl::stream stream(engine);
  call.run(0, stream, trial.x.data(), trial.right.data(), to.data(), scratchpad.data());
  return to;
}

bool agrees(const Trial& trial, const Order& order, std::int64_t rows, DType result,
            const std::vector<std::byte>& want) {
  std::array<float, kMostRows * kBlockColumns> sums;
  std::array<std::byte, kWordsBytes> rounded;
  const std::size_t value_bytes = dtype_bytes(result);
  for (std::int64_t first = 0; first < rows; first += kMostRows) {
    const std::int64_t count = std::min(kMostRows, rows - first);
    for (std::int64_t block = 0; block < trial.blocks(); ++block) {
      multiply(trial.held, trial.layout, order, count,
               trial.x.data() + static_cast<std::size_t>(first) * trial.row_bytes, trial.row_bytes,
               trial.right.data() + static_cast<std::size_t>(block) * trial.layout.block_bytes,
               sums.data());
      const std::int64_t column = block * kBlockColumns;
      const auto columns = static_cast<std::size_t>(std::min(kBlockColumns, trial.n - column));
      for (std::int64_t row = 0; row < count; ++row) {
        const float* from = &sums[static_cast<std::size_t>(row * kBlockColumns)];
        if (result == DType::kBF16) {
          round_to_bf16(from, rounded.data(), columns);
        } else {
          std::memcpy(rounded.data(), from, columns * sizeof(float));
        }
        const auto at = static_cast<std::size_t>((first + row) * trial.n + column) * value_bytes;
        if (std::memcmp(&want[at], rounded.data(), columns * value_bytes) != 0) return false;
      }
    }
  }
  return true;
}

}  // namespace

Order find_order(const dnnl::engine& engine, DType held, std::int64_t k, std::int64_t n,
                 const Desc& layout) {
  const bool is_bf16 = held == DType::kBF16;
  const std::int64_t values_per_word = is_bf16 ? 2 : 1;
  if (!can_multiply(held) || k % values_per_word != 0) return {};
  const Desc expected({k, n}, onednn::data_type(held), is_bf16 ? Tag::BA16a64b2a : Tag::BA16a64b);
  if (!(layout == expected)) return {};
  Trial trial = make_trial(held, k, n);
  if (layout.get_size() != trial.right.size()) return {};
  std::vector<Order> orders = {{trial.layout.words}};
  for (const std::int64_t chunk : kTriedChunks) {
    if (chunk < k) orders.push_back({chunk / values_per_word});
  }
  for (const std::int64_t rows : kTriedRows) {
    for (const DType result : {DType::kF32, held}) {
      const auto want = by_onednn(engine, trial, layout, rows, result);
      std::erase_if(orders,
                    [&](const Order& order) { return !agrees(trial, order, rows, result, want); });
      if (orders.empty()) return {};
    }
  }
  return orders.front();
}

}  // namespace airlock::few_rows
