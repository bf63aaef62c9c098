#include "runtime/cpu/few_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>
#include <vector>

#include "base/page_buffer.h"
#include "runtime/cpu/few_rows_order.h"
#include "runtime/cpu/onednn.h"

namespace airlock::few_rows {
namespace {

std::vector<float> random_values(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

/// Blocks of fp32 whose element (row, column) is w[column][row].
std::vector<float> blocks_of(const std::vector<float>& w, std::int64_t k, std::int64_t n) {
  const Layout layout = Layout::of(DType::kF32, k);
  const std::int64_t blocks = (n + kBlockColumns - 1) / kBlockColumns;
  std::vector<float> packed(static_cast<std::size_t>(blocks) * layout.block_bytes / sizeof(float));
  for (std::int64_t column = 0; column < n; ++column) {
    for (std::int64_t row = 0; row < k; ++row) {
      const auto block = static_cast<std::size_t>(column / kBlockColumns) * layout.block_bytes / 4;
      packed[block + static_cast<std::size_t>(row * kBlockColumns + column % kBlockColumns)] =
          w[static_cast<std::size_t>(column * k + row)];
    }
  }
  return packed;
}

const std::byte* bytes_of(const std::vector<float>& values) {
  return reinterpret_cast<const std::byte*>(values.data());
}

TEST(FewRows, of_fp32_are_summed_in_chunks_for_each_number_of_rows) {
  if (!can_multiply(DType::kF32)) GTEST_SKIP() << "no AVX-512";
  constexpr std::int64_t kK = 333;
  const auto w = random_values(kK * kBlockColumns, 1);
  const auto x = random_values(kK * kMostRows, 2);
  const auto packed = blocks_of(w, kK, kBlockColumns);
  const Layout layout = Layout::of(DType::kF32, kK);
  for (const std::int64_t chunk : {kK, std::int64_t{100}, std::int64_t{128}, std::int64_t{1}}) {
    std::vector<float> want;
    for (std::int64_t row = 0; row < kMostRows; ++row) {
      for (std::int64_t column = 0; column < kBlockColumns; ++column) {
        float sum = 0;
        for (std::int64_t begin = 0; begin < kK; begin += chunk) {
          float part = 0;
          for (std::int64_t i = begin; i < std::min(begin + chunk, kK); ++i) {
            part = std::fma(x[static_cast<std::size_t>(row * kK + i)],
                            w[static_cast<std::size_t>(column * kK + i)], part);
          }
          sum = begin == 0 ? part : sum + part;
        }
        want.push_back(sum);
      }
    }
    for (std::int64_t rows = 1; rows <= kMostRows; ++rows) {
      std::vector<float> sums(static_cast<std::size_t>(rows * kBlockColumns), NAN);
      multiply(DType::kF32, layout, {chunk}, rows, bytes_of(x), kK * sizeof(float),
               bytes_of(packed), sums.data());
      ASSERT_EQ(std::memcmp(sums.data(), want.data(), sums.size() * sizeof(float)), 0)
          << rows << " rows, chunks of " << chunk;
    }
  }
}

TEST(FewRows, of_bf16_have_their_bits_whatever_is_beside_them) {
  if (!can_multiply(DType::kBF16)) GTEST_SKIP() << "no AVX-512 with bf16";
  constexpr std::int64_t kK = 702;
  const Layout layout = Layout::of(DType::kBF16, kK);
  const auto exact = random_values(layout.block_bytes / 2 + kK * kMostRows, 3);
  std::vector<std::byte> rounded(exact.size() * 2 / 32 * 32 + 32);
  round_to_bf16(exact.data(), rounded.data(), exact.size());
  const std::byte* x = rounded.data() + layout.block_bytes;
  for (const std::int64_t chunk_words : {std::int64_t{351}, std::int64_t{128}}) {
    std::vector<float> alone;
    for (std::int64_t row = 0; row < kMostRows; ++row) {
      alone.resize(alone.size() + kBlockColumns);
      multiply(DType::kBF16, layout, {chunk_words}, 1, x + row * kK * 2, kK * 2, rounded.data(),
               &alone[alone.size() - kBlockColumns]);
    }
    for (std::int64_t rows = 2; rows <= kMostRows; ++rows) {
      std::vector<float> sums(static_cast<std::size_t>(rows * kBlockColumns));
      multiply(DType::kBF16, layout, {chunk_words}, rows, x, kK * 2, rounded.data(), sums.data());
      ASSERT_EQ(std::memcmp(sums.data(), alone.data(), sums.size() * sizeof(float)), 0) << rows;
    }
  }
}

// What is read ahead of a block need not be there, and nothing else of it is touched.
TEST(FewRows, read_no_more_than_their_block) {
  if (!can_multiply(DType::kF32)) GTEST_SKIP() << "no AVX-512";
  const Layout layout = Layout::of(DType::kF32, 64);
  const PageBuffer pages = PageBuffer::allocate(layout.block_bytes).value();
  ASSERT_EQ(pages.bytes() % layout.block_bytes, 0U);
  const auto x = random_values(64 * kMostRows, 4);
  std::vector<float> sums(kMostRows * kBlockColumns, NAN);
  multiply(DType::kF32, layout, {64}, kMostRows, bytes_of(x), 64 * sizeof(float),
           pages.data() + pages.bytes() - layout.block_bytes, sums.data());
  EXPECT_EQ(sums, std::vector<float>(sums.size(), 0.0F));
}

TEST(FewRows, give_a_column_back) {
  constexpr std::int64_t kK = 77;
  constexpr std::int64_t kN = 150;
  const auto w = random_values(kK * kN, 5);
  const auto packed = blocks_of(w, kK, kN);
  std::vector<float> column(kK);
  for (const std::int64_t n : {0, 63, 64, 149}) {
    copy_column(Layout::of(DType::kF32, kK), bytes_of(packed), n,
                reinterpret_cast<std::byte*>(column.data()));
    EXPECT_EQ(std::memcmp(column.data(), &w[static_cast<std::size_t>(n * kK)], kK * sizeof(float)),
              0);
  }
}

class EachHeld : public ::testing::TestWithParam<DType> {
 protected:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  onednn::OneThread alone_;
  bool is_bf16() const { return GetParam() == DType::kBF16; }
  dnnl::memory::desc layout(std::int64_t k, std::int64_t n, dnnl::memory::format_tag tag) const {
    return {{k, n}, onednn::data_type(GetParam()), tag};
  }
};

// The kernels' blocks, of oneDNN 2.6. Another version may sum otherwise: slower, but as right.
TEST_P(EachHeld, order_of_onednn_is_found_where_it_has_kernels_of_avx512) {
  const auto isa = is_bf16() ? dnnl::cpu_isa::avx512_core_bf16 : dnnl::cpu_isa::avx512_core;
  if (!can_multiply(GetParam()) || dnnl::get_effective_cpu_isa() < isa) GTEST_SKIP();
  // AMX sums bf16 in another way: there the order is to be unknown.
  if (is_bf16() && dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core_amx) GTEST_SKIP();
  if (dnnl_version()->major != 2 || dnnl_version()->minor != 6) GTEST_SKIP();
  using Tag = dnnl::memory::format_tag;
  for (const std::int64_t k : {64, 300, 514, 1000, 1024, 2048, 3000}) {
    for (const std::int64_t n : {256, 44}) {
      const Order order = find_order(engine_, GetParam(), k, n,
                                     layout(k, n, is_bf16() ? Tag::BA16a64b2a : Tag::BA16a64b));
      // 1024 values, or 512 up to 1024; all of up to 512.
      const std::int64_t values = k <= 512 ? k : k <= 1024 ? 512 : 1024;
      EXPECT_EQ(order.chunk_words, is_bf16() ? values / 2 : values) << k << " x " << n;
    }
  }
}

TEST_P(EachHeld, order_of_another_layout_is_unknown) {
  using Tag = dnnl::memory::format_tag;
  for (const Tag tag : {Tag::ba, Tag::ab, Tag::BA16a32b}) {
    EXPECT_FALSE(find_order(engine_, GetParam(), 96, 256, layout(96, 256, tag)).known());
  }
}

INSTANTIATE_TEST_SUITE_P(Types, EachHeld, ::testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& dtype) { return std::string(name_of(dtype.param)); });

}  // namespace
}  // namespace airlock::few_rows
