#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "runtime/stats/counters_reader.h"
#include "tools/airlock_stat/options.h"

namespace airlock {

/// Where the figures of a server come from: its counters file, or the server itself. One thread.
class StatSource {
 public:
  enum class Scope : std::uint8_t { kWholeServer, kOwnSession };

  /// The file, where there is one on this machine; else a session with the server. kUnavailable:
  /// no server, with advice.
  static Result<std::unique_ptr<StatSource>> open(const StatOptions& options);
  virtual ~StatSource() = default;
  virtual Scope scope() const = 0;
  /// The figures now. Of an own session only `report` and `alive` are set. kUnavailable: the
  /// server is gone.
  virtual Result<CountersSnapshot> look() = 0;
};

/// What the `stats` op answered, from a server that nobody vouches for: machine, paths and ops of
/// one session, and nothing that would drive a terminal. kProtocolError where it is not the JSON of
/// docs/STATS.md.
Result<SideReport> read_own_session(std::string_view json);

}  // namespace airlock
