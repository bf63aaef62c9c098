#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "proto/op.h"
#include "runtime/trace/trace.h"

namespace airlock::trace {

/// "12.345", of nanoseconds.
std::string milliseconds(std::uint64_t ns);
/// "64.00 MiB"; below 1024 "512 B".
std::string size_text(std::uint64_t bytes);
/// "12.3 %"; "-" of a whole that is 0.
std::string percent(std::uint64_t part, std::uint64_t whole);
/// b / a as "1.250"; "-" where a is 0.
std::string ratio(std::uint64_t a, std::uint64_t b);
/// "32x1024x64"; "-" for a scalar.
std::string shape_text(const Shape& shape);
/// "bf16[32x1024x64]".
std::string desc_text(const TensorDesc& desc);
/// "0.q_proj".
std::string weight_text(const WeightId& weight);
/// "ring", "zmq"; "-" where nothing was crossed.
std::string_view path_text(const std::optional<Path>& path);
/// "none", "a" or "b".
std::string_view transpose_text(Transpose transpose);
/// At most 2^64 - 1: times in a trace are anyone's word, and a sum of them must not wrap.
std::uint64_t add_capped(std::uint64_t a, std::uint64_t b);

/// A table in Markdown whose columns are aligned for a terminal too: the first `left` columns are
/// aligned left, others right.
std::string markdown_table(const std::vector<std::string>& head,
                           const std::vector<std::vector<std::string>>& rows, std::size_t left = 1);
/// One row of CSV (RFC 4180, but with a plain newline).
std::string csv_row(const std::vector<std::string>& cells);

}  // namespace airlock::trace
