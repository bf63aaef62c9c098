#pragma once

#include <sys/types.h>
#include <sys/un.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/unique_fd.h"

namespace airlock {

/// Where a server is reached: "ipc:///absolute/path" or "tcp://host:port".
struct Endpoint {
  enum class Kind { kIpc, kTcp } kind = Kind::kIpc;
  std::string path;          // ipc; without "//" and "." in it
  std::string host;          // tcp; "*" for all interfaces
  std::string port;          // tcp; "0" or "*": any free one
  bool is_loopback() const;  // ipc always
  std::string text() const;
  /// The directory of an ipc path.
  std::string directory() const;
};

/// kUsage for anything else, for a relative or abstract path, for a path over 107 bytes, and where
/// has_controls(). One socket has many spellings (links in parent directories, "..", mounts): two
/// texts that differ may be one endpoint.
Result<Endpoint> parse_endpoint(std::string_view text);
/// Of the Unix socket at `path`. kUsage: too long.
Result<sockaddr_un> unix_address(const std::string& path);
/// `$XDG_RUNTIME_DIR/airlock/ctl`, else `/tmp/airlock-UID/ctl`.
Endpoint default_endpoint();

/// Logs a line where a connection to `endpoint` without keys is one that others can read and
/// change; nothing where it is_loopback().
void warn_of_exposure(const Endpoint& endpoint);

enum class IfMissing { kCreate, kRefuse };
/// The directory must be a real directory (no link; its parents may be links), our own and 0700:
/// whoever can write there can pose as the server. kCreate makes it where it is missing, 0700
/// whatever the umask. kInvalidInput with the path, what is wrong and what to do; where
/// XDG_RUNTIME_DIR is at fault, that is what is named. kUnavailable: with kRefuse it is missing,
/// that is, no server has been there yet; one that may still start is waited for by asking again
/// until the caller's deadline.
Status check_endpoint_directory(const std::string& directory, IfMissing if_missing);

/// A server's hold on an ipc endpoint: while it lives no other server has the same one, by whatever
/// spelling, and whatever somebody removes. It is a lock on the directory itself, on a byte that
/// stands for the socket's name, and the file `PATH.lock` with the pid, which is locked too. At its
/// end it removes that file and the socket, if they are still those that this server made. One
/// thread at a time.
class EndpointLock {
 public:
  EndpointLock() = default;
  EndpointLock(EndpointLock&&) noexcept = default;
  EndpointLock& operator=(EndpointLock&& other) noexcept;
  ~EndpointLock();
  /// Removes the socket that a dead server left. kInUse, naming the pid where it is known: a live
  /// process holds the endpoint, or listens there without a lock. kInvalidInput: something else
  /// lies at the socket's or the lock file's path.
  static Result<EndpointLock> acquire(const std::string& socket_path);

  /// The socket at the endpoint's path is this server's own: to be called once it is bound.
  Status own_socket();
  /// For a look now and then; ok where nothing is held. A lock file that somebody removed is made
  /// anew. kUnavailable, with the reason: the directory, or the socket since own_socket(), was
  /// removed or replaced, so that no new client finds this server.
  Status still_ours();
  /// Removes the socket and the lock file, if they are ours, as the end does; the endpoint is still
  /// held. To be called before the socket is closed: until then no other file can have its inode.
  void remove_files();

 private:
  /// What identifies a file for as long as somebody has it open.
  struct FileId {
    dev_t device = 0;
    ino_t inode = 0;
    bool operator==(const FileId&) const = default;
  };
  std::optional<FileId> find(const std::string& name) const;
  void remove_if_same(const std::string& name, const std::optional<FileId>& id) const;
  Status lock_directory();
  Status lock_file();

  std::string directory_;
  std::string socket_name_;
  // Holds the lock on the byte that stands for the socket's name.
  UniqueFd directory_fd_;
  // The lock file; locked.
  UniqueFd file_fd_;
  std::optional<FileId> file_id_;
  std::optional<FileId> socket_id_;
  // It was said once that somebody removes the lock file.
  bool warned_ = false;
};

/// Where a session's data socket lies: "PATH.XXXXXXXX"; where that is too long for a Unix socket,
/// "sXXXXXXXX" in the same directory, with fewer digits where even that is too long. kUsage: no
/// room for one digit.
Result<std::string> session_socket_path(const std::string& socket_path, std::uint32_t random);

/// Where a client of `control` finds the session's data socket that the server calls `claimed`: the
/// socket of that name beside the client's own control socket, whatever the server's spelling of
/// that directory, or the claimed port of the client's own host. kProtocolError: it is no endpoint,
/// of another kind, or of a name that session_socket_path() never gives. kUsage: too long a path.
Result<std::string> session_endpoint(const Endpoint& control, const std::string& claimed);

/// Where the counters of the server at `endpoint` lie (runtime/stats/counters_file.h): "PATH.stats"
/// for ipc, "tcp-PORT.stats" in the default endpoint's directory for tcp.
std::string counters_path(const Endpoint& endpoint);

/// Removes sockets of sessions that a dead server left: sockets of our own to which nobody listens,
/// by their names. Only under the lock. Of a directory with more than 65536 entries it looks at so
/// many.
void sweep_session_sockets(const std::string& socket_path);

}  // namespace airlock
