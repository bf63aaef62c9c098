#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "tools/airlock_xfer/options.h"

namespace airlock::xfer {

/// What was measured of one size on one path.
struct Measured {
  // The path of its tensors by the channel's own counters; "mixed" where it is not one.
  std::string taken;
  std::uint64_t iterations = 0;
  // echo: half a round trip; stream: from the start of the send to its reply.
  double p50_ns = 0;
  double p90_ns = 0;
  double p99_ns = 0;
  double max_ns = 0;
  // A message's share of the time: what GB/s and the ratio come from.
  double one_way_ns = 0;
  // One copy of the same size in the same run, the median.
  double memcpy_ns = 0;
  std::uint64_t wrong_bytes = 0;
  // Of the replies, where both processes were on one CPU.
  double same_cpu_share = 0;

  double memcpy_ratio() const { return one_way_ns / memcpy_ns; }
};

struct Row {
  std::size_t bytes = 0;
  // nullopt: auto.
  std::optional<Path> asked;
  // nullopt: the path cannot carry this size.
  std::optional<Measured> measured;

  /// 10^9 bytes a second, of a row that was measured.
  double gb_per_s() const { return static_cast<double>(bytes) / measured->one_way_ns; }
};

/// The least of the values that is not below `share` (0..1] of them: no interpolation. `sorted` is
/// ascending and not empty.
double percentile(const std::vector<double>& sorted, double share);

/// What stands above the rows: (name, text).
using Facts = std::vector<std::pair<std::string, std::string>>;

/// Writes the rows as they come (md, csv) or all at the end (json), so that what was measured
/// before a failure is shown. One thread.
class ResultTable {
 public:
  using Sink = std::function<Status(std::string_view)>;
  ResultTable(OutputForm form, Sink sink) : form_(form), sink_(std::move(sink)) {}

  void begin(const Facts& facts);
  void add(const Row& row);
  /// The sink's first failure; nothing is written after it.
  const Status& written() const { return written_; }
  /// The summary. `end` says how the run ended, up to whether its bytes were right: gives it back,
  /// or kMismatch where only they were not, or the sink's failure where only that is wrong.
  Status finish(Status end);
  const std::vector<Row>& rows() const { return rows_; }

 private:
  void write(std::string_view text) {
    if (written_.ok()) written_ = sink_(text);
  }

  const OutputForm form_;
  const Sink sink_;
  Status written_;
  Facts facts_;
  std::vector<Row> rows_;
};

}  // namespace airlock::xfer
