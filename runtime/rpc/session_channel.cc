#include "runtime/rpc/session_channel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <string_view>
#include <utility>

#include "base/cpu_count.h"
#include "base/file.h"
#include "base/random.h"
#include "runtime/channel/pool_carrier.h"
#include "runtime/channel/ring_carrier.h"
#include "runtime/channel/routed_channel.h"
#include "runtime/channel/socket_carrier.h"
#include "runtime/channel/socket_lanes.h"
#include "runtime/rpc/data_door.h"
#include "runtime/rpc/tcp.h"
#include "shm/ring_memory.h"

namespace airlock {
namespace {

/// From a connection to its token. Who has not shown it by then is a stranger, or so slow that
/// another try does no harm.
constexpr std::chrono::seconds kTokenPatience{1};
constexpr std::chrono::milliseconds kSlice{20};
/// At a port that takes no connection any more, or not yet; longer than the longest round trip.
constexpr std::chrono::milliseconds kConnectPatience{500};
/// To see tokens leave; what is left by then leaves with lost().
constexpr std::chrono::milliseconds kShowPatience{200};

// Of --data-sockets auto: each has a thread, beside those that compute.
constexpr std::size_t kCpusASocket = 2;
constexpr std::size_t kMostUnasked = 4;

/// Shows of each token what can leave now, so that no socket waits for another one's round trips.
/// The first whose token is still here; null: none is. kMismatch: another's key, and no other
/// attempt would find ours.
Result<const ZmtpSocket*> show_tokens(std::vector<ZmtpSocket>& sockets) {
  const ZmtpSocket* waits = nullptr;
  for (ZmtpSocket& socket : sockets) {
    Status shown = socket.flush();
    if (shown.code() == StatusCode::kMismatch) return shown;
    const bool has_left = shown.code() != StatusCode::kBusy || socket.disconnected();
    if (waits == nullptr && !has_left) waits = &socket;
  }
  return waits;
}

}  // namespace

Result<UniqueFd> connect_data(const Endpoint& endpoint) {
  if (endpoint.kind == Endpoint::Kind::kTcp)
    return connect_tcp(endpoint, Deadline::after(kConnectPatience));
  ASSIGN_OR_RETURN(const sockaddr_un address, unix_address(endpoint.path));
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return os_error("make a data socket", errno);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0)
    return fd;
  return Status(StatusCode::kUnavailable, "cannot connect to {}: {}", endpoint.text(),
                os_message(errno));
}

std::size_t data_sockets_for(std::size_t wish, const Endpoint& endpoint) {
  CHECK(wish <= limits::kMaxDataSockets);
  if (endpoint.kind == Endpoint::Kind::kIpc) return 1;
  if (wish != 0) return wish;
  // Whoever is on this machine has the same CPUs.
  if (endpoint.is_loopback()) return 1;
  return std::clamp<std::size_t>(usable_cpu_count() / kCpusASocket, 1, kMostUnasked);
}

Status name_session(Welcome& welcome) {
  std::array<std::uint64_t, 3> random{};
  RETURN_IF_ERROR(fill_random(random));
  welcome.epoch = random[0] | 1;
  welcome.token = fmt::format("{:016x}{:016x}", random[1], random[2]);
  return {};
}

std::vector<std::span<std::byte>> SessionChannel::segments() const {
  std::vector<std::span<std::byte>> mapped;
  for (const auto& segment : {in_segment_, out_segment_}) {
    if (segment) mapped.push_back(segment->bytes());
  }
  for (const GrantedExtent& granted : granted_) mapped.push_back(granted.bytes());
  return mapped;
}

Status SessionChannel::make_segments(Welcome& welcome, SegmentKind kind) {
  ASSIGN_OR_RETURN(const std::size_t bytes, ring_segment_bytes(welcome.geometry));
  const auto make = [&](SegmentDirection direction,
                        std::string& name) -> Result<std::unique_ptr<Segment>> {
    const std::string own = make_segment_name(::geteuid(), welcome.epoch, direction);
    if (kind == SegmentKind::kSealed) return Segment::create_sealed(own, bytes);
    name = own;
    return Segment::create(own, bytes);
  };
  ASSIGN_OR_RETURN(in_segment_, make(SegmentDirection::kRequest, welcome.request_segment));
  ASSIGN_OR_RETURN(out_segment_, make(SegmentDirection::kReply, welcome.reply_segment));
  RETURN_IF_ERROR(format_ring(*in_segment_, welcome.geometry, welcome.epoch));
  return format_ring(*out_segment_, welcome.geometry, welcome.epoch);
}

Result<std::unique_ptr<SessionChannel>> SessionChannel::offer(Welcome& welcome, SegmentKind kind,
                                                              const PeerWatch& watch,
                                                              TransportStats* stats,
                                                              const StreamSecurity* security) {
  std::unique_ptr<SessionChannel> made(new SessionChannel(welcome, watch, stats, security));
  if (welcome.has_ring) RETURN_IF_ERROR(made->make_segments(welcome, kind));
  made->welcome_ = welcome;
  return made;
}

Result<std::vector<UniqueFd>> SessionChannel::descriptors() const {
  std::vector<UniqueFd> copies;
  if (!welcome_.has_ring || !welcome_.request_segment.empty()) return copies;
  for (const auto& segment : {in_segment_, out_segment_}) {
    copies.emplace_back(::fcntl(segment->descriptor(), F_DUPFD_CLOEXEC, 0));
    if (!copies.back().valid()) return os_error("copy a segment's descriptor", errno);
  }
  return copies;
}

/// The first frame on data socket `index`: the first one's is the token alone.
std::string SessionChannel::token_of(std::size_t index) const {
  return index == 0 ? welcome_.token : fmt::format("{}{}", welcome_.token, index);
}

/// Which of the session's sockets it is. kProtocolError: a stranger's.
Result<std::size_t> SessionChannel::await_token(ZmtpSocket& socket, Deadline deadline) const {
  std::array<std::byte, limits::kSessionTokenBytes + 1> shown{};
  for (;;) {
    const auto size = socket.receive_into(shown, deadline.slice(kSlice));
    if (size.ok()) {
      const std::string_view text(reinterpret_cast<const char*>(shown.data()), *size);
      for (std::size_t index = 0; index < socket_count(); ++index) {
        if (text == token_of(index)) return index;
      }
      return Status(StatusCode::kProtocolError,
                    "the first frame on the data socket is not the token");
    }
    RETURN_IF_ERROR(watch_.check());
    // Whatever a stranger says, with a key or without.
    if (size.status().code() != StatusCode::kDeadlineExceeded || deadline.expired())
      return Status(StatusCode::kProtocolError, "no token came on the data socket");
  }
}

/// False: somebody else was there, or they did not all come.
Result<bool> SessionChannel::admit_sockets(DataDoor& door, Deadline deadline) {
  std::vector<std::optional<ZmtpSocket>> came(socket_count());
  for (std::size_t count = 0; count < came.size(); ++count) {
    // Who has shown the token once comes again at once.
    const Deadline due = count == 0 ? deadline : deadline.slice(kTokenPatience);
    const Status knocked = door.await_knock(watch_, due);
    if (knocked.code() == StatusCode::kDeadlineExceeded && deadline.expired())
      return Status(StatusCode::kUnavailable, "the client never attached to its session");
    if (knocked.code() == StatusCode::kDeadlineExceeded) return false;
    RETURN_IF_ERROR(knocked);
    auto socket = door.let_in(security_);
    if (socket.status().code() == StatusCode::kUnavailable) return false;
    RETURN_IF_ERROR(socket.status());
    const auto index = await_token(*socket, deadline.slice(kTokenPatience));
    // A stranger's words end nothing but his connection: the next door has another name.
    if (index.status().code() == StatusCode::kProtocolError) return false;
    RETURN_IF_ERROR(index.status());
    if (came[*index]) return false;
    came[*index].emplace(std::move(socket).value());
  }
  sockets_.clear();
  for (auto& socket : came) sockets_.push_back(std::move(*socket));
  return true;
}

Status SessionChannel::admit_runner(const Endpoint& control,
                                    const std::function<void(const std::string&)>& announce,
                                    Deadline deadline) {
  for (;;) {
    ASSIGN_OR_RETURN(DataDoor door, DataDoor::open(control, socket_count()));
    announce(door.endpoint());
    ASSIGN_OR_RETURN(const bool is_complete, admit_sockets(door, deadline));
    if (is_complete) return {};
  }
}

Status SessionChannel::accept(const Endpoint& control,
                              const std::function<void(const std::string& endpoint)>& announce,
                              Deadline deadline) {
  RETURN_IF_ERROR(admit_runner(control, announce, deadline));
  remove_files();
  const WaitCheck check = [this] { return watch_.check(); };
  for (const auto& segment : {in_segment_, out_segment_}) {
    if (segment) RETURN_IF_ERROR(segment->reserve(check));
  }
  return {};
}

Result<std::vector<UniqueFd>> SessionChannel::lease(PoolRegion& pool, const PoolWish& wish,
                                                    Attached& attached, Status& lacking) {
  std::vector<UniqueFd> copies;
  for (const PoolUse use : kValuesOf<PoolUse>) {
    if (wish[use] == 0) continue;
    auto granted = pool.grant(use, wish[use]);
    if (!granted.ok()) {
      lacking = granted.status();
      continue;  // its tensors go by ZeroMQ then, and are counted
    }
    attached.pool.push_back(granted->extent());
    ASSIGN_OR_RETURN(UniqueFd copy, granted->hand_out());
    copies.push_back(std::move(copy));
    granted_.push_back(std::move(granted).value());
  }
  return copies;
}

Status SessionChannel::take_lease(const Attached& attached, std::span<const UniqueFd> descriptors,
                                  const PoolWish& wish) {
  if (!welcome_.has_pool && !attached.pool.empty())
    return {StatusCode::kProtocolError, "the server leases of a pool that the session has not"};
  ASSIGN_OR_RETURN(lease_, PoolLease::map(attached.pool, descriptors, wish));
  return {};
}

void SessionChannel::discard_memory() {
  for (const auto& segment : {in_segment_, out_segment_}) {
    if (segment) segment->discard();
  }
  for (GrantedExtent& granted : granted_) granted.discard();
}

void SessionChannel::wake() const {
  for (const auto& segment : {in_segment_, out_segment_}) {
    if (segment) ring_bells(*segment);
  }
}

void SessionChannel::remove_files() {
  if (in_segment_) in_segment_->unlink();
  if (out_segment_) out_segment_->unlink();
}

Status SessionChannel::open() {
  // The server cannot have read a token that is still here.
  const auto has_left = [](ZmtpSocket& socket) { return socket.flush().ok(); };
  if (sockets_.size() != socket_count() || !std::ranges::all_of(sockets_, has_left))
    return {StatusCode::kProtocolError, "the session is attached without a data connection"};
  const RingGeometry& geometry = welcome_.geometry;
  const bool has_ring = welcome_.has_ring;
  RoutedChannelOptions options;
  options.policy = {.has_ring = has_ring,
                    .limit_bytes = welcome_.path_limit,
                    .slot_count = has_ring ? geometry.slot_count : 0,
                    .has_pool = welcome_.has_pool,
                    .inline_bytes = welcome_.inline_bytes};
  if (welcome_.inline_bytes > 0) {
    options.policy.inline_room =
        has_ring ? std::min<std::size_t>(geometry.slot_bytes, limits::kMaxInlineBytes)
                 : limits::kMaxInlineBytes;
  }
  options.awaits_limit = welcome_.calibrates;
  std::vector<ZmtpSocket> further(std::make_move_iterator(sockets_.begin() + 1),
                                  std::make_move_iterator(sockets_.end()));
  std::unique_ptr<SocketLanes> lanes;
  if (!further.empty()) {
    ASSIGN_OR_RETURN(lanes, SocketLanes::start(std::move(further)));
  }
  WatchedCarrier socket =
      make_socket_carrier({welcome_.epoch, std::move(sockets_[0]), &watch_,
                           has_ring ? 0 : options.policy.inline_room, std::move(lanes)});
  sockets_.clear();
  options.stats = stats_;
  options.watch = &watch_;
  if (has_ring) {
    out_segment_->populate();
    in_segment_->populate();
    ASSIGN_OR_RETURN(options.carriers[Path::kRing],
                     make_ring_carrier({out_segment_, in_segment_, geometry, welcome_.epoch,
                                        std::move(socket.check_peer)}));
  }
  if (welcome_.has_pool) {
    PoolMap leased = lease_ ? lease_->pool_map() : PoolMap();
    for (const GrantedExtent& granted : granted_)
      leased.add(granted.extent().offset, granted.bytes());
    options.carriers[Path::kPool] = make_pool_carrier(std::move(leased), [this] {
      return (lease_ && lease_->faulted()) ||
             std::ranges::any_of(granted_, &GrantedExtent::faulted);
    });
  }
  options.carriers[Path::kZmq] = std::move(socket.carrier);
  channel_ = make_routed_channel(std::move(options));
  return {};
}

Result<std::unique_ptr<SessionChannel>> SessionChannel::attach(
    const Welcome& welcome, std::span<const UniqueFd> descriptors, const PeerWatch& watch,
    const StreamSecurity* security) {
  std::unique_ptr<SessionChannel> made(new SessionChannel(welcome, watch, nullptr, security));
  const bool is_sealed = welcome.has_ring && welcome.request_segment.empty();
  if (descriptors.size() != (is_sealed ? 2 : 0)) {
    return Status(StatusCode::kProtocolError, "{} segments came beside the welcome, expected {}",
                  descriptors.size(), is_sealed ? 2 : 0);
  }
  if (!welcome.has_ring) return made;
  ASSIGN_OR_RETURN(const std::size_t bytes, ring_segment_bytes(welcome.geometry));
  const auto open = [&](std::size_t index, const std::string& name) {
    return is_sealed ? Segment::open_sealed(descriptors[index], bytes) : Segment::open(name, bytes);
  };
  ASSIGN_OR_RETURN(made->out_segment_, open(0, welcome.request_segment));
  ASSIGN_OR_RETURN(made->in_segment_, open(1, welcome.reply_segment));
  return made;
}

Status SessionChannel::connect(const std::string& data_endpoint, const WaitCheck& check) {
  sockets_.clear();
  ASSIGN_OR_RETURN(const Endpoint endpoint, parse_endpoint(data_endpoint));
  std::vector<ZmtpSocket> sockets;
  while (sockets.size() < socket_count()) {
    if (check) RETURN_IF_ERROR(check());
    auto connection = connect_data(endpoint);
    const StatusCode code = connection.status().code();
    // Somebody else was there first: the server will announce another, or has done so.
    if (code == StatusCode::kUnavailable || code == StatusCode::kDeadlineExceeded) return {};
    RETURN_IF_ERROR(connection.status());
    ASSIGN_OR_RETURN(SocketStream stream, SocketStream::open(std::move(connection).value(),
                                                             security_, StreamRole::kClient));
    const auto token = std::make_shared<const std::string>(token_of(sockets.size()));
    sockets.emplace_back(std::move(stream));
    sockets.back().queue(std::as_bytes(std::span(*token)), token);
    RETURN_IF_ERROR(show_tokens(sockets).status());
  }
  for (const Deadline patience = Deadline::after(kShowPatience); !patience.expired();) {
    ASSIGN_OR_RETURN(const ZmtpSocket* const waits, show_tokens(sockets));
    if (waits == nullptr) break;
    if (check) RETURN_IF_ERROR(check());
    (void)waits->poll(ZmtpSocket::Wake::kWritable, patience.slice(kSlice));
  }
  sockets_ = std::move(sockets);
  return {};
}

bool SessionChannel::lost() {
  return sockets_.size() != socket_count() || std::ranges::any_of(sockets_, [](ZmtpSocket& socket) {
           const StatusCode shown = socket.flush().code();
           return socket.disconnected() || (shown != StatusCode::kOk && shown != StatusCode::kBusy);
         });
}

}  // namespace airlock
