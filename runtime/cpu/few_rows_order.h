#pragma once

#include <cstdint>
#include <oneapi/dnnl/dnnl.hpp>

#include "base/dtype.h"
#include "runtime/cpu/few_rows.h"

/// Internal to runtime/cpu.
namespace airlock::few_rows {

/// The order in which oneDNN sums a product with a panel k x n held as `layout`, found by trying:
/// products of one row, of some and of many, with each type of result, have in every bit what
/// multiply() gives in that order. Unknown where the layout is another one or no order does. The
/// same for the same arguments on one CPU. Under OneThread; throws dnnl::error.
Order find_order(const dnnl::engine& engine, DType held, std::int64_t k, std::int64_t n,
                 const dnnl::memory::desc& layout);

}  // namespace airlock::few_rows
