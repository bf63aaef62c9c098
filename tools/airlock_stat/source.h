#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "runtime/rpc/client.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/stats/counters_reader.h"
#include "tools/airlock_stat/options.h"

namespace airlock {

/// Why nobody can be reached at an ipc endpoint: there is no socket, and what to do; else nullopt.
std::optional<Status> no_server(const Endpoint& endpoint);

/// What the server at `endpoint` counts, from its file on this machine. kUnavailable: there is no
/// file, or another server's; else as check_endpoint_directory() and read_counters_file().
Result<CountersSnapshot> look_at_file(const Endpoint& endpoint);

/// Where the figures of a server come from: its counters file, or the server itself. One thread.
class StatSource {
 public:
  enum class Scope : std::uint8_t { kWholeServer, kOwnSession };

  /// The file, where there is one on this machine; else a session with the server. kUnavailable:
  /// no server, with advice.
  static Result<StatSource> open(const StatOptions& options);
  Scope scope() const { return session_ ? Scope::kOwnSession : Scope::kWholeServer; }
  /// The figures now. Of an own session only `report` and `alive` are set. kUnavailable: the
  /// server is gone.
  Result<CountersSnapshot> look() const;

 private:
  StatSource() = default;
  static Result<StatSource> connect(const Endpoint& endpoint,
                                    std::shared_ptr<const StreamSecurity> security,
                                    std::chrono::milliseconds timeout);

  // Of the file, where there is no session.
  std::string path_;
  std::unique_ptr<ClientSession> session_;
  std::chrono::milliseconds timeout_{};
};

/// What the `stats` op answered, from a server that nobody vouches for: machine, paths and ops of
/// one session, and nothing that would drive a terminal. kProtocolError where it is not the JSON of
/// docs/STATS.md.
Result<SideReport> read_own_session(std::string_view json);

}  // namespace airlock
