#pragma once

#include <cstddef>
#include <cstdint>
#include <oneapi/dnnl/dnnl.hpp>

#include "base/dtype.h"

/// Internal to runtime/cpu.
namespace airlock {

/// How a panel k x n lies, where its rows can be packed without oneDNN: in blocks of `columns`
/// columns, each of them word after word, of one word all columns. A word is one fp32, or two bf16
/// of one column. Of oneDNN's layouts these are ab (one block) and BA16a64b for fp32, and
/// BA16a64b2a for bf16.
struct PanelForm {
  std::int64_t columns = 0;  // 0: it lies otherwise, or k has no whole words
  std::int64_t words = 0;    // of a column
  std::size_t block_bytes = 0;

  bool known() const { return columns > 0; }
};

PanelForm find_panel_form(DType held, std::int64_t k, std::int64_t n,
                          const dnnl::memory::desc& layout);

/// Rows of a panel come in multiples of this, but for its last ones: a line of each word.
inline constexpr std::int64_t kPackedRows = 16;

/// Writes rows [first, first + count) of a panel's W, which are its columns, as oneDNN's reorder
/// does; what is missing of a block is left as it is (zeros, in fresh pages). `rows` [count, k] of
/// `from`: the held type, or bf16 where fp32 is held, which is exact. `first` is a multiple of
/// kPackedRows; `panel` of 64 bytes. Any thread.
void pack_rows(const PanelForm& form, DType from, DType held, const std::byte* rows,
               std::int64_t first, std::int64_t count, std::byte* panel);

}  // namespace airlock
