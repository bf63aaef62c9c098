#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "runtime/cpu/int8_weights_held.h"
#include "runtime/cpu/int_product.h"

namespace airlock {

namespace {

using Tag = dnnl::memory::format_tag;
using dnnl::memory;

// Rows on the left that differ from each other, in a trial.
constexpr std::int64_t kPatterns = 8;
// A group that has to have more rows than this costs more than it is worth.
constexpr std::int64_t kMostLeast = 32;

memory::desc left_desc(std::int64_t m, std::int64_t k) {
  return {{m, k}, memory::data_type::s8, Tag::ab};
}
memory::desc sums_desc(std::int64_t m, std::int64_t n) {
  return {{m, n}, memory::data_type::s32, Tag::ab};
}
memory::desc plain_desc(std::int64_t k, std::int64_t n) {
  return {{k, n}, memory::data_type::s8, Tag::ba};
}

/// Whether oneDNN multiplies so many rows by this layout, and not by a reference implementation.
bool takes(const dnnl::engine& engine, std::int64_t m, std::int64_t k, std::int64_t n,
           const memory::desc& layout) {
  try {
    onednn::pick_layout(engine, left_desc(m, k), layout, sums_desc(m, n));
    return true;
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_out_of_memory) throw;
    return false;
  }
}

/// The least of kDigitRowCounts from which on all are taken; more than all where the last is not.
std::int64_t least_taken(const dnnl::engine& engine, std::int64_t k, std::int64_t n,
                         const memory::desc& layout) {
  std::int64_t least = kDigitRowCounts.back() + 1;
  for (auto m = kDigitRowCounts.rbegin(); m != kDigitRowCounts.rend(); ++m) {
    if (!takes(engine, *m, k, n, layout)) break;
    least = *m;
  }
  return least;
}

/// `rows` rows of `k` digits or weights, from `least` on: all least, all most, signs that
/// alternate, the ends of what there is, and for the rest any.
std::vector<std::int8_t> trial_rows(std::int64_t rows, std::int64_t k, int least,
                                    std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::int8_t> values(static_cast<std::size_t>(rows * k));
  auto* to = values.data();
  for (std::int64_t row = 0; row < rows; ++row, to += k) {
    for (std::int64_t i = 0; i < k; ++i) {
      const auto drawn =
          static_cast<std::int8_t>(std::max(static_cast<int>(random() % 256) - 128, least));
      const auto low = static_cast<std::int8_t>(least);
      const std::int8_t ends = drawn < 0 ? low : std::int8_t{127};
      const std::int8_t turns = i % 2 == 0 ? low : std::int8_t{127};
      const std::array<std::int8_t, 5> choices = {low, 127, turns, ends, drawn};
      to[i] = choices[static_cast<std::size_t>(row % 5)];
    }
  }
  return values;
}

/// Whether oneDNN's sums are those of integers, for `least` rows and every larger count.
bool is_exact(const dnnl::engine& engine, std::int64_t k, std::int64_t n,
              const memory::desc& layout, std::int64_t least) {
  const std::vector<std::int8_t> patterns = trial_rows(kPatterns, k, -128, 1);
  std::vector<std::int8_t> weights = trial_rows(n, k, -kInt8Most, 2);
  std::vector<std::int32_t> want(static_cast<std::size_t>(kPatterns * n));
  for (std::int64_t row = 0; row < kPatterns; ++row) {
    for (std::int64_t column = 0; column < n; ++column) {
      std::int32_t sum = 0;  // mod 2^32 above k = 131072, as oneDNN's
      for (std::int64_t i = 0; i < k; ++i) {
        const int term = patterns[static_cast<std::size_t>(row * k + i)] *
                         weights[static_cast<std::size_t>(column * k + i)];
        sum = static_cast<std::int32_t>(static_cast<std::uint32_t>(sum) +
                                        static_cast<std::uint32_t>(term));
      }
      want[static_cast<std::size_t>(row * n + column)] = sum;
    }
  }
  dnnl::stream stream(engine);
  memory plain(plain_desc(k, n), engine, weights.data());
  memory packed(layout, engine);
  dnnl::reorder(plain, packed).execute(stream, plain, packed);
  stream.wait();
  for (const std::int64_t m : kDigitRowCounts) {
    if (m < least) continue;
    std::vector<std::int8_t> left(static_cast<std::size_t>(m * k));
    for (std::int64_t row = 0; row < m; ++row)
      std::copy_n(patterns.begin() + row % kPatterns * k, k, left.begin() + row * k);
    std::vector<std::int32_t> got(static_cast<std::size_t>(m * n));
    onednn::Call call(engine, left_desc(m, k), layout, sums_desc(m, n), 1);
    std::vector<std::byte> scratchpad(call.scratchpad_bytes());
    call.run(0, stream, reinterpret_cast<const std::byte*>(left.data()),
             static_cast<const std::byte*>(packed.get_data_handle()),
             reinterpret_cast<std::byte*>(got.data()), scratchpad.data());
    for (std::int64_t row = 0; row < m; ++row) {
      if (!std::equal(got.begin() + row * n, got.begin() + (row + 1) * n,
                      want.begin() + row % kPatterns * n)) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace

Int8Layouts::Int8Layouts(const dnnl::engine& engine, const Shapes& shapes) {
  if (!choose(engine, shapes)) way_ = Int8Way::kF64;
  if (way_ == Int8Way::kOneDnn) return;
  for (const auto& [k, n] : shapes) descs_[{k, n}] = plain_desc(k, n);
}

bool Int8Layouts::choose(const dnnl::engine& engine, const Shapes& shapes) {
  const std::int64_t most = kDigitRowCounts.back();
  for (const auto& [k, n] : shapes) {
    if (descs_.contains({k, n})) continue;
    const std::int64_t width = padded_columns(n);
    const memory::desc any({k, width}, memory::data_type::s8, Tag::any);
    if (!takes(engine, most, k, width, any)) return false;
    const memory::desc layout =
        onednn::pick_layout(engine, left_desc(most, k), any, sums_desc(most, width));
    const std::int64_t least = least_taken(engine, k, width, layout);
    if (least > kMostLeast) return false;
    least_digit_rows_ = std::max(least_digit_rows_, least);
    descs_[{k, n}] = layout;
  }
  return std::ranges::all_of(descs_, [&](const auto& entry) {
    const auto& [k, n] = entry.first;
    return is_exact(engine, k, padded_columns(n), entry.second, least_digit_rows_);
  });
}

}  // namespace airlock
