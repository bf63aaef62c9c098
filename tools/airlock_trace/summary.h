#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/trace/between.h"
#include "runtime/trace/trace.h"

namespace airlock::trace {

/// What is in a trace, added up in one pass and bounded memory. Plain values, nanoseconds and
/// bytes.

inline constexpr std::array kTracedOps = {Op::kEmbedding, Op::kBatchLinear, Op::kMatmul,
                                          Op::kLmHead};
/// Row of kTracedOps, or the number of them for anything else.
std::size_t traced_op_index(Op op);

/// Sums stop at 2^64 - 1 instead of wrapping.
struct OpTotals {
  std::uint64_t calls = 0;
  std::uint64_t input_bytes = 0;
  std::uint64_t output_bytes = 0;
  std::uint64_t total_ns = 0;
  std::uint64_t tee_ns = 0;
  std::uint64_t wire_ns = 0;
  std::uint64_t queue_ns = 0;
  std::uint64_t server_ns = 0;
  // Of total_ns: upper edge of a histogram's bucket, at most 12.5 % above (docs/STATS.md).
  std::uint64_t p50_ns = 0;
  std::uint64_t p99_ns = 0;
  std::uint64_t max_ns = 0;
  void add(const TraceRecord& record);
  bool operator==(const OpTotals&) const = default;
};

struct PathTotals {
  std::uint64_t tensors = 0;
  std::uint64_t input_bytes = 0;
  std::uint64_t output_bytes = 0;
  std::uint64_t bytes() const { return input_bytes + output_bytes; }
  bool operator==(const PathTotals&) const = default;
};
inline constexpr std::array<std::string_view, 3> kPathRows = {"ring", "zmq", "none"};
std::size_t path_row(const std::optional<Path>& path);

/// One of the ops that took longest (or, where times are equal, moved most).
struct BigOp {
  std::uint64_t seq = 0;
  std::uint64_t run = 0;
  Op op = Op::kEmbedding;
  std::optional<std::uint16_t> layer;
  std::string shapes;  // "bf16[32x1024x64] bf16[8x1024x64] -> bf16[32x1024x1024]"
  std::uint64_t bytes = 0;
  std::uint64_t total_ns = 0;
  std::optional<Path> path;
  bool operator==(const BigOp&) const = default;
};
inline constexpr std::size_t kBigOps = 5;

struct TraceSummary {
  std::string file;
  TraceHeader header;
  std::array<OpTotals, kTracedOps.size()> ops;
  OpTotals all;
  std::array<PathTotals, kPathRows.size()> paths;
  BusyTime ops_time;
  std::vector<BigOp> biggest;
  std::string cut;  // as TraceReader::cut()

  /// Time in which an op was under way, those that overlap counted once.
  std::uint64_t under_way_ns() const { return ops_time.busy_ns(); }
  /// Time of the TEE between ops; nullopt where it is not known.
  std::optional<std::uint64_t> between_ns() const;
  /// What shares are of: the wall, or where that is unknown the time under way and between.
  std::uint64_t whole_ns() const;
  bool has_wall() const { return header.wall_ns.has_value() && *header.wall_ns != 0; }
};

class Summariser {
 public:
  Summariser();
  ~Summariser();
  Summariser(const Summariser&) = delete;
  Summariser& operator=(const Summariser&) = delete;
  void add(const TraceRecord& record);
  /// Fills everything but file, header and cut.
  TraceSummary finish() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// "bf16[32x1024x64] bf16[8x1024x64] -> bf16[32x1024x1024]"
std::string shapes_text(const TraceRecord& record);

/// kInvalidInput as TraceReader gives it.
Result<TraceSummary> summarise(const std::string& path);

}  // namespace airlock::trace
