#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "proto/op.h"

namespace airlock::trace {

/// A performance log of the Python prototype, as its lines say it: one line a call, then perhaps a
/// SUMMARY of the last prefill. Plain values; docs/PROTOTYPE.md describes the file.

inline constexpr std::size_t kMaxLogBytes = std::size_t{64} << 20;
inline constexpr std::size_t kMaxLogLineBytes = std::size_t{64} << 10;
inline constexpr std::size_t kMaxLogCalls = std::size_t{1} << 17;

/// As the prototype calls it: "Init", "BatchLinear"; empty for what it does not have.
std::string_view prototype_name(Op op);

struct LogCall {
  std::uint64_t line = 0;  // in the file, from 1
  std::uint64_t id = 0;
  Op op = Op::kInit;
  std::uint64_t serialise_ns = 0;
  std::uint64_t send_ns = 0;
  std::uint64_t receive_ns = 0;  // waiting for the server included
  std::uint64_t deserialise_ns = 0;
  std::uint64_t gpu_ns = 0;  // within receive_ns
  std::uint64_t total_ns = 0;
  std::uint64_t sent_bytes = 0;  // outside the ring, headers included, to 5 bytes
  std::uint64_t received_bytes = 0;
};

/// What the log's end says of one prefill.
struct LogSummary {
  std::uint64_t line = 0;
  std::optional<std::uint64_t> calls;
  std::optional<std::uint64_t> wall_ns;
  std::optional<std::uint64_t> comm_ns;
};

struct PrototypeLog {
  std::vector<LogCall> calls;  // in the file's order, Init among them
  std::optional<LogSummary> summary;
  std::string cut;  // a warning where the last line has no end; empty where the log is whole
};

/// The log is untrusted: kInvalidInput with SOURCE:LINE for a line that is none of a log's, a
/// number that is no plain decimal within its range, a method that nobody knows, ids with a gap.
Result<PrototypeLog> parse_prototype_log(std::string_view text, std::string_view source);

/// "12.345" in units of 10^-`digits`: 12345 for 3. nullopt for a sign, an exponent, nan, inf, more
/// than nine digits before the point or more than `digits` behind it.
std::optional<std::uint64_t> parse_decimal(std::string_view text, std::size_t digits);

}  // namespace airlock::trace
