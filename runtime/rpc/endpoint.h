#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/unique_fd.h"

namespace airlock {

/// Where a server is reached: "ipc:///absolute/path" or "tcp://host:port".
struct Endpoint {
  enum class Kind { kIpc, kTcp } kind = Kind::kIpc;
  std::string path;          // ipc
  std::string host;          // tcp; "*" for all interfaces
  std::string port;          // tcp; "0" or "*": any free one
  bool is_loopback() const;  // ipc always
  std::string text() const;
  /// The directory of an ipc path.
  std::string directory() const;
};

/// kUsage for anything else, for a relative or abstract path, and for a path over 107 bytes.
Result<Endpoint> parse_endpoint(std::string_view text);
/// `$XDG_RUNTIME_DIR/airlock/ctl`, else `/tmp/airlock-UID/ctl`.
Endpoint default_endpoint();

enum class IfMissing { kCreate, kRefuse };
/// The directory must be a real directory (no link), our own and 0700: whoever can write there can
/// pose as the server. kCreate makes it where it is missing. kInvalidInput with the path, what is
/// wrong and what to do.
Status check_endpoint_directory(const std::string& directory, IfMissing if_missing);

/// Holds `PATH.lock` while it lives, so that a live server's socket is never taken and a dead one's
/// may be. Removes the lock file at its end.
class EndpointLock {
 public:
  EndpointLock() = default;
  EndpointLock(EndpointLock&&) noexcept = default;
  EndpointLock& operator=(EndpointLock&&) noexcept = default;
  ~EndpointLock();
  /// kInUse, naming the pid in the file, where a live process holds it.
  static Result<EndpointLock> acquire(const std::string& socket_path);

 private:
  std::string path_;
  UniqueFd fd_;
};

/// Where a session's data socket lies: "PATH.XXXXXXXX"; where that is too long for a Unix socket,
/// "sXXXXXXXX" in the same directory, with fewer digits where even that is too long. kUsage: no
/// room for one digit.
Result<std::string> session_socket_path(const std::string& socket_path, std::uint32_t random);

/// Where the counters of the server at `endpoint` lie (runtime/stats/counters_file.h): "PATH.stats"
/// for ipc, "tcp-PORT.stats" in the default endpoint's directory for tcp.
std::string counters_path(const Endpoint& endpoint);

/// Removes sockets of sessions that a dead server left. Only under the lock. The short names may be
/// another server's in the same directory: of these, only sockets to which nobody listens.
void sweep_session_sockets(const std::string& socket_path);

}  // namespace airlock
