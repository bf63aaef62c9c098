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
  std::string taken;  // "ring" or "zmq", by the channel's own counters
  std::uint64_t iterations = 0;
  double p50_ns = 0;  // echo: half a round trip; stream: from the start of the send to its reply
  double p90_ns = 0;
  double p99_ns = 0;
  double max_ns = 0;
  double one_way_ns = 0;  // a message's share of the time: what GB/s and the ratio come from
  double memcpy_ns = 0;   // one copy of the same size in the same run, the median
  std::uint64_t wrong_bytes = 0;
  double same_cpu_share = 0;  // of the replies, where both processes were on one CPU

  double memcpy_ratio() const { return one_way_ns / memcpy_ns; }
};

struct Row {
  std::size_t bytes = 0;
  PathAsked asked = PathAsked::kAuto;
  std::optional<Measured> measured;  // nullopt: the path cannot carry this size
};

/// The least of the values that is not below `share` (0..1] of them: no interpolation. `sorted` is
/// ascending and not empty.
double percentile(const std::vector<double>& sorted, double share);
/// 10^9 bytes a second.
double gb_per_s(const Row& row);

/// What stands above the rows: (name, text).
using Facts = std::vector<std::pair<std::string, std::string>>;

/// Writes the rows as they come (md, csv) or all at the end (json), so that what was measured
/// before a failure is shown. One thread.
class ResultTable {
 public:
  using Sink = std::function<void(std::string_view)>;
  ResultTable(OutputForm form, Sink sink) : form_(form), sink_(std::move(sink)) {}

  void begin(const Facts& facts);
  void add(const Row& row);
  /// The summary; `end` says how the run ended.
  void finish(const Status& end);

 private:
  void summarize(const Status& end);
  void write_json(const Status& end);

  OutputForm form_;
  Sink sink_;
  Facts facts_;
  std::vector<Row> rows_;
};

}  // namespace airlock::xfer
