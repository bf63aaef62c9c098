#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "pool/lease.h"
#include "pool/region.h"
#include "proto/handshake.h"
#include "runtime/channel/channel.h"
#include "runtime/channel/zmtp_socket.h"
#include "runtime/rpc/endpoint.h"
#include "shm/segment.h"

namespace airlock {

class DataDoor;

/// How the runner finds the ring segments.
enum class SegmentKind {
  // By descriptors that come beside Welcome: no name, and a size that nobody can change.
  kSealed,
  // By names below /dev/shm, where the control connection passes no descriptors (tcp).
  kNamed,
};

/// A connection to a session's data socket; waits for a moment at most. kUnavailable,
/// kDeadlineExceeded: nobody listens there any more, or somebody else is before us;
/// kResourceExhausted.
Result<UniqueFd> connect_data(const Endpoint& endpoint);

/// How many data sockets a side wants for a session at `endpoint`: `wish`, at most
/// limits::kMaxDataSockets, or for 0 what suits: one for each two of this process's CPUs, at most
/// 4, and on loopback one. Over ipc always one.
std::size_t data_sockets_for(std::size_t wish, const Endpoint& endpoint);

/// Gives a session its epoch, never 0, and its token, both by chance.
Status name_session(Welcome& welcome);

/// A session's channel with what it stands on: the ring segments, what it leases of the server's
/// pool, and the data socket. Made at the server, attached to by the runner. One thread at a time;
/// the watch and the pool outlive it.
class SessionChannel {
 public:
  /// Server: makes the segments, where `welcome` (epoch, token, geometry and ring must be set) has
  /// a ring, and fills in their names. Their memory is only promised: a client that never attaches
  /// costs next to nothing. The channel counts in `stats`, and its data socket is one of
  /// `security`; both outlive it, where given.
  static Result<std::unique_ptr<SessionChannel>> offer(Welcome& welcome, SegmentKind kind,
                                                       const PeerWatch& watch,
                                                       TransportStats* stats = nullptr,
                                                       const StreamSecurity* security = nullptr);
  /// Server: copies of the segments' descriptors for beside Welcome, the request segment's first.
  /// None where they have names.
  Result<std::vector<UniqueFd>> descriptors() const;
  /// Server: opens a door beside `control`, calls `announce` with its endpoint and waits for the
  /// runner there, with all of its data sockets; then takes the rings' memory. Where a stranger
  /// comes, or they do not all come, another door is opened and announced. From here on no file of
  /// the session is left. kUnavailable: the runner never came; kResourceExhausted: no memory.
  /// open() is next.
  Status accept(const Endpoint& control,
                const std::function<void(const std::string& endpoint)>& announce,
                Deadline deadline);
  /// Server: leases what `wish` asks for of `pool`, before open(), as far as there is room; fills
  /// in what Attached says. Returns copies of the descriptors for beside it. `lacking`: why there
  /// was none for a use.
  Result<std::vector<UniqueFd>> lease(PoolRegion& pool, const PoolWish& wish, Attached& attached,
                                      Status& lacking);
  /// Runner: maps the segments that `welcome` (checked) names, or whose `descriptors` came with it.
  static Result<std::unique_ptr<SessionChannel>> attach(const Welcome& welcome,
                                                        std::span<const UniqueFd> descriptors,
                                                        const PeerWatch& watch,
                                                        const StreamSecurity* security = nullptr);
  /// Runner: connects all data sockets and shows the token on each; waits for moments at most, and
  /// asks `check` now and then whether anybody still wants it. Again with every endpoint that the
  /// server announces, and where lost() says so. kMismatch: another's key; what `check` says.
  Status connect(const std::string& data_endpoint, const WaitCheck& check = {});
  /// Runner: a connection is not there (yet), or has ended. Goes on showing the token.
  bool lost();
  /// Runner: maps what Attached says was leased for `wish`, before open().
  Status take_lease(const Attached& attached, std::span<const UniqueFd> descriptors,
                    const PoolWish& wish);
  /// Server: after accept(). Runner: the server has said that it is attached.
  Status open();

  /// Server: gives the rings' and the lease's memory back, though the runner may still map it. It
  /// reads zeros then: only once it can see that the session is over.
  void discard_memory();
  /// Server: unlinks what accept() has not unlinked yet; mappings and connection live on.
  void remove_files();
  /// Wakes who waits at the rings. Any thread, as long as this lives.
  void wake() const;
  /// After open().
  Channel& channel() { return *channel_; }
  /// What the server says of the session.
  const Welcome& welcome() const { return welcome_; }
  /// Where tensors lie that cross in shared memory: the mapped ring segments, and the server's
  /// mapping of what the session has leased.
  std::vector<std::span<std::byte>> segments() const;
  /// Runner: what the session has leased of the pool; null where it takes none.
  PoolLease* pool() { return lease_.get(); }

 private:
  SessionChannel(const Welcome& welcome, const PeerWatch& watch, TransportStats* stats,
                 const StreamSecurity* security)
      : welcome_(welcome), watch_(watch), stats_(stats), security_(security) {}
  Status make_segments(Welcome& welcome, SegmentKind kind);
  Status admit_runner(const Endpoint& control,
                      const std::function<void(const std::string&)>& announce, Deadline deadline);
  std::size_t socket_count() const { return data_sockets_in(welcome_.capabilities); }
  std::string token_of(std::size_t index) const;
  Result<bool> admit_sockets(DataDoor& door, Deadline deadline);
  Result<std::size_t> await_token(ZmtpSocket& socket, Deadline deadline) const;

  std::vector<GrantedExtent> granted_;    // the server's
  std::unique_ptr<PoolLease> lease_;      // the runner's
  std::shared_ptr<Segment> out_segment_;  // shared with the channel
  std::shared_ptr<Segment> in_segment_;
  // All of them, or none; until the channel takes them.
  std::vector<ZmtpSocket> sockets_;
  Welcome welcome_;
  const PeerWatch& watch_;
  TransportStats* const stats_;
  const StreamSecurity* const security_;
  std::unique_ptr<Channel> channel_;
};

}  // namespace airlock
