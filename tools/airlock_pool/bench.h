#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/text/table.h"
#include "tools/airlock_pool/options.h"

namespace airlock::pool_tool {

/// Powers of two from `begin` to `end`.
std::vector<std::uint64_t> plan_sizes(std::uint64_t begin, std::uint64_t end);

/// An operand of `bytes` (a power of two) as [rows, columns] of fp32, that times a vector small
/// enough to cross beside it.
struct OperandShape {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};
OperandShape operand_shape(std::uint64_t bytes);

/// One of the times of each round.
struct Round {
  std::uint64_t memcpy_ns = 0;   // the size, in private memory that was touched
  std::uint64_t copy_ns = 0;     // into the array
  std::uint64_t wait_ns = 0;     // from the start of the product to its result, less compute_ns
  std::uint64_t compute_ns = 0;  // the server's word
  std::uint64_t total_ns = 0;    // of all but memcpy_ns, with the copy of the result
};
/// Of each time by itself; `rounds` has one at least.
Round median_of(const std::vector<Round>& rounds);

/// What became of one size.
struct Measured {
  std::uint64_t bytes = 0;
  std::string_view path;  // of the operand: "pool", "ring/inline", "zmq"
  std::size_t round_count = 0;
  Round median;
  std::string skipped;  // why there is nothing else
};
Table bench_table();
Cells row_of(const Measured& measured);

/// Measures and prints, a row at a time. What was measured stays printed where the server ends.
Status run_bench(const Options& options);

}  // namespace airlock::pool_tool
