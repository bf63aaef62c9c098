#include "runtime/cpu/panel_packer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "base/convert.h"
#include "base/mix.h"
#include "base/page_buffer.h"
#include "runtime/cpu/few_rows.h"
#include "runtime/cpu/onednn.h"

namespace airlock {
namespace {

using Desc = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;

/// Any bits at all, NaN and infinity among them.
std::vector<std::byte> random_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(mix(i) & 0xff);
  return bytes;
}

struct Case {
  DType held;
  Tag tag;
  std::int64_t k;
  std::int64_t n;
};

// Whole and partial groups of rows, of words and of blocks.
constexpr Case kCases[] = {
    {DType::kF32, Tag::ab, 64, 256},         {DType::kF32, Tag::ab, 37, 256},
    {DType::kF32, Tag::ab, 5, 48},           {DType::kF32, Tag::ab, 40, 41},
    {DType::kF32, Tag::ab, 16, 3},           {DType::kF32, Tag::BA16a64b, 64, 256},
    {DType::kF32, Tag::BA16a64b, 100, 256},  {DType::kF32, Tag::BA16a64b, 33, 72},
    {DType::kF32, Tag::BA16a64b, 7, 1},      {DType::kBF16, Tag::BA16a64b2a, 64, 256},
    {DType::kBF16, Tag::BA16a64b2a, 70, 72}, {DType::kBF16, Tag::BA16a64b2a, 10, 17},
};

std::vector<std::byte> by_onednn(const Case& c, const Desc& layout, std::vector<std::byte>& rows) {
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  std::vector<std::byte> packed(layout.get_size() + 64);
  dnnl::memory from({{c.k, c.n}, onednn::data_type(c.held), Tag::ba}, engine, rows.data());
  dnnl::memory to(layout, engine, packed.data());
  dnnl::reorder(from, to).execute(stream, from, to);
  stream.wait();
  packed.resize(layout.get_size());
  return packed;
}

/// In parts of 32 rows.
PageBuffer by_parts(const Case& c, const PanelForm& form, DType from, std::size_t panel_bytes,
                    const std::vector<std::byte>& rows) {
  constexpr std::int64_t kPart = 2 * kPackedRows;
  PageBuffer pages = PageBuffer::allocate(panel_bytes).value();
  const std::size_t row_bytes = static_cast<std::size_t>(c.k) * dtype_bytes(from);
  for (std::int64_t first = 0; first < c.n; first += kPart) {
    pack_rows(form, from, c.held, rows.data() + static_cast<std::size_t>(first) * row_bytes, first,
              std::min(kPart, c.n - first), pages.data());
  }
  return pages;
}

TEST(PackRows, gives_every_byte_of_onednns_reorder) {
  const onednn::OneThread alone;
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::Message() << name_of(c.held) << " " << c.k << " x " << c.n);
    const Desc layout({c.k, c.n}, onednn::data_type(c.held), c.tag);
    const PanelForm form = find_panel_form(c.held, c.k, c.n, layout);
    ASSERT_TRUE(form.known());
    auto rows = random_bytes(static_cast<std::size_t>(c.k * c.n) * dtype_bytes(c.held));
    // Where it has no kernel for bf16, NaN and subnormals are not those that it was given.
    for (std::size_t i = 1; c.held == DType::kBF16 && i < rows.size(); i += 2)
      rows[i] = (rows[i] & std::byte{0xbf}) | std::byte{0x20};
    const auto want = by_onednn(c, layout, rows);
    const PageBuffer packed = by_parts(c, form, c.held, want.size(), rows);
    EXPECT_EQ(std::memcmp(packed.data(), want.data(), want.size()), 0);
  }
}

TEST(PackRows, widens_bf16_to_the_same_bytes_as_values_that_were_widened_before) {
  for (const Case& c : kCases) {
    if (c.held != DType::kF32) continue;
    SCOPED_TRACE(::testing::Message() << c.k << " x " << c.n);
    const Desc layout({c.k, c.n}, dnnl::memory::data_type::f32, c.tag);
    const PanelForm form = find_panel_form(c.held, c.k, c.n, layout);
    const auto count = static_cast<std::size_t>(c.k * c.n);
    const auto halves = random_bytes(count * 2);
    std::vector<std::byte> wide(count * 4);
    load_f32(DType::kBF16, halves.data(), reinterpret_cast<float*>(wide.data()), count);
    const PageBuffer want = by_parts(c, form, DType::kF32, layout.get_size(), wide);
    const PageBuffer packed = by_parts(c, form, DType::kBF16, layout.get_size(), halves);
    EXPECT_EQ(std::memcmp(packed.data(), want.data(), layout.get_size()), 0);
  }
}

TEST(FindPanelForm, knows_no_other_layout) {
  const auto f32 = dnnl::memory::data_type::f32;
  const auto bf16 = dnnl::memory::data_type::bf16;
  EXPECT_FALSE(find_panel_form(DType::kF32, 64, 64, {{64, 64}, f32, Tag::ba}).known());
  EXPECT_FALSE(find_panel_form(DType::kF32, 64, 64, {{64, 64}, f32, Tag::BA16a16b}).known());
  EXPECT_FALSE(find_panel_form(DType::kBF16, 64, 64, {{64, 64}, bf16, Tag::ab}).known());
  EXPECT_FALSE(find_panel_form(DType::kBF16, 63, 64, {{63, 64}, bf16, Tag::BA16a64b2a}).known());
}

}  // namespace
}  // namespace airlock
