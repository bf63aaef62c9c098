#include "runtime/rpc/session_channel.h"

#include <unistd.h>

#include <utility>

#include "runtime/channel/ring_carrier.h"
#include "runtime/channel/routed_channel.h"
#include "runtime/channel/socket_carrier.h"
#include "runtime/rpc/endpoint.h"
#include "shm/ring_memory.h"

namespace airlock {
namespace {

constexpr std::chrono::milliseconds kHeartbeatTimeout{5000};
constexpr std::chrono::milliseconds kAttachSlice{20};

Result<ZmqSocket> data_socket(const ZmqContext& context, ZmqSocketType type,
                              std::string routing_id) {
  return ZmqSocket::create(
      context, type, {.routing_id = std::move(routing_id), .heartbeat_timeout = kHeartbeatTimeout});
}

}  // namespace

SessionChannel::SessionChannel(ZmqSocket socket, const Welcome& welcome, const PeerWatch& watch,
                               TransportStats* stats)
    : socket_(std::move(socket)), welcome_(welcome), watch_(watch), stats_(stats) {}

std::vector<std::span<std::byte>> SessionChannel::segments() const {
  std::vector<std::span<std::byte>> mapped;
  for (const auto& segment : {in_segment_, out_segment_}) {
    if (segment) mapped.push_back(segment->bytes());
  }
  return mapped;
}

Status SessionChannel::make_segments(Welcome& welcome) {
  welcome.request_segment =
      make_segment_name(::geteuid(), welcome.epoch, SegmentDirection::kRequest);
  welcome.reply_segment = make_segment_name(::geteuid(), welcome.epoch, SegmentDirection::kReply);
  ASSIGN_OR_RETURN(const std::size_t bytes, ring_segment_bytes(welcome.geometry));
  const WaitCheck check = [this] { return watch_.check(); };
  ASSIGN_OR_RETURN(in_segment_, Segment::create(welcome.request_segment, bytes, check));
  ASSIGN_OR_RETURN(out_segment_, Segment::create(welcome.reply_segment, bytes, check));
  RETURN_IF_ERROR(format_ring(*in_segment_, welcome.geometry, welcome.epoch));
  return format_ring(*out_segment_, welcome.geometry, welcome.epoch);
}

Status SessionChannel::accept(Deadline deadline) {
  for (;;) {
    std::byte probe[1];
    auto got = socket_.receive_into(welcome_.token, probe, deadline.slice(kAttachSlice));
    if (got.ok()) break;
    if (got.status().code() != StatusCode::kDeadlineExceeded) return got.status();
    RETURN_IF_ERROR(watch_.check());
    if (deadline.expired())
      return {StatusCode::kUnavailable, "the client never attached to its session"};
  }
  remove_files();
  return open_channel(welcome_.token);
}

void SessionChannel::remove_files() {
  if (in_segment_) in_segment_->unlink();
  if (out_segment_) out_segment_->unlink();
  auto endpoint = parse_endpoint(welcome_.data_endpoint);
  if (endpoint.ok() && endpoint->kind == Endpoint::Kind::kIpc) ::unlink(endpoint->path.c_str());
}

Status SessionChannel::open_channel(const std::string& peer_route) {
  const RingGeometry& geometry = welcome_.geometry;
  const bool has_ring = welcome_.has_ring;
  WatchedCarrier socket = make_socket_carrier(
      {welcome_.epoch, std::move(socket_), peer_route, &watch_, !peer_route.empty()});
  RoutedChannelOptions options;
  options.policy = {has_ring, geometry.slot_bytes, has_ring ? geometry.slot_count : 0};
  options.stats = stats_;
  if (has_ring) {
    ASSIGN_OR_RETURN(options.carriers[Path::kRing],
                     make_ring_carrier({out_segment_, in_segment_, geometry, welcome_.epoch,
                                        std::move(socket.check_peer)}));
  }
  options.carriers[Path::kZmq] = std::move(socket.carrier);
  channel_ = make_routed_channel(std::move(options));
  return {};
}

Result<std::unique_ptr<SessionChannel>> SessionChannel::offer(const ZmqContext& context,
                                                              Welcome& welcome,
                                                              const std::string& wanted_endpoint,
                                                              const PeerWatch& watch,
                                                              TransportStats* stats) {
  ASSIGN_OR_RETURN(ZmqSocket socket, data_socket(context, ZmqSocketType::kRouter, ""));
  ASSIGN_OR_RETURN(welcome.data_endpoint, socket.bind(wanted_endpoint));
  std::unique_ptr<SessionChannel> made(
      new SessionChannel(std::move(socket), welcome, watch, stats));
  const Status status = welcome.has_ring ? made->make_segments(welcome) : Status();
  made->welcome_ = welcome;
  if (status.ok()) return made;
  made->remove_files();
  return status;
}

Result<std::unique_ptr<SessionChannel>> SessionChannel::attach(const ZmqContext& context,
                                                               const Welcome& welcome,
                                                               const std::string& data_endpoint,
                                                               const PeerWatch& watch,
                                                               Deadline deadline) {
  ASSIGN_OR_RETURN(ZmqSocket dealer, data_socket(context, ZmqSocketType::kDealer, welcome.token));
  std::unique_ptr<SessionChannel> made(
      new SessionChannel(std::move(dealer), welcome, watch, nullptr));
  if (welcome.has_ring) {
    ASSIGN_OR_RETURN(const std::size_t bytes, ring_segment_bytes(welcome.geometry));
    ASSIGN_OR_RETURN(made->out_segment_, Segment::open(welcome.request_segment, bytes));
    ASSIGN_OR_RETURN(made->in_segment_, Segment::open(welcome.reply_segment, bytes));
  }
  ZmqSocket& socket = made->socket_;
  RETURN_IF_ERROR(socket.connect(data_endpoint));
  while (!socket.connected()) {
    RETURN_IF_ERROR(watch.check());
    if (deadline.expired() || socket.disconnected()) {
      return Status(StatusCode::kUnavailable, "cannot connect to the session's data socket {}",
                    data_endpoint);
    }
    (void)socket.poll(ZmqSocket::Wake::kReadable, deadline.slice(std::chrono::milliseconds(1)));
  }
  const std::byte probe[1] = {};
  const std::span<const std::byte> part = probe;
  RETURN_IF_ERROR(socket.send({&part, 1}, deadline));
  RETURN_IF_ERROR(made->open_channel(""));
  return made;
}

}  // namespace airlock
