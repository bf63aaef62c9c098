#include "runtime/rpc/session_channel.h"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

#include "runtime/channel/local_channel.h"
#include "runtime/channel/zmq_channel.h"
#include "runtime/rpc/endpoint.h"
#include "shm/ring.h"
#include "shm/ring_memory.h"
#include "shm/segment.h"

namespace airlock {

namespace {

constexpr std::chrono::milliseconds kHeartbeatTimeout{5000};
constexpr std::chrono::milliseconds kAttachSlice{20};

class SessionChannelImpl : public SessionChannel {
 public:
  SessionChannelImpl(ZmqSocket socket, const Welcome& welcome, const PeerWatch& watch,
                     TransportStats* stats)
      : socket_(std::move(socket)), welcome_(welcome), watch_(watch), stats_(stats) {}

  Channel& channel() override { return *channel_; }

  std::vector<std::span<std::byte>> segments() const override {
    std::vector<std::span<std::byte>> mapped;
    for (const auto& segment : {in_segment_, out_segment_}) {
      if (segment) mapped.push_back(segment->bytes());
    }
    return mapped;
  }

  Status make_segments(Welcome& welcome) {
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

  Status map_segments() {
    ASSIGN_OR_RETURN(const std::size_t bytes, ring_segment_bytes(welcome_.geometry));
    ASSIGN_OR_RETURN(out_segment_, Segment::open(welcome_.request_segment, bytes));
    ASSIGN_OR_RETURN(in_segment_, Segment::open(welcome_.reply_segment, bytes));
    return {};
  }

  void set_welcome(const Welcome& welcome) { welcome_ = welcome; }

  Status accept(Deadline deadline) override {
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

  void remove_files() override {
    if (in_segment_) in_segment_->unlink();
    if (out_segment_) out_segment_->unlink();
    auto endpoint = parse_endpoint(welcome_.data_endpoint);
    if (endpoint.ok() && endpoint->kind == Endpoint::Kind::kIpc) ::unlink(endpoint->path.c_str());
  }

  Status attach_to_server(const std::string& data_endpoint, Deadline deadline) {
    if (welcome_.has_ring) RETURN_IF_ERROR(map_segments());
    RETURN_IF_ERROR(socket_.connect(data_endpoint));
    while (!socket_.connected()) {
      RETURN_IF_ERROR(watch_.check());
      if (deadline.expired() || socket_.disconnected()) {
        return {StatusCode::kUnavailable,
                fmt::format("cannot connect to the session's data socket {}", data_endpoint)};
      }
      (void)socket_.poll(ZmqSocket::Wake::kReadable, deadline.slice(std::chrono::milliseconds(1)));
    }
    const std::byte probe[1] = {};
    const std::span<const std::byte> part = probe;
    RETURN_IF_ERROR(socket_.send({&part, 1}, deadline));
    return open_channel("");
  }

 private:
  Status open_channel(const std::string& route) {
    if (!welcome_.has_ring) {
      channel_ = ZmqChannel::create({welcome_.epoch, welcome_.geometry.slot_bytes,
                                     std::move(socket_), route, &watch_, !route.empty(), stats_});
      return {};
    }
    ASSIGN_OR_RETURN(RingProducer out,
                     RingProducer::create(*out_segment_, welcome_.geometry, welcome_.epoch));
    ASSIGN_OR_RETURN(RingConsumer in,
                     RingConsumer::create(*in_segment_, welcome_.geometry, welcome_.epoch));
    channel_ = LocalChannel::create({welcome_.epoch, out_segment_, in_segment_, std::move(out),
                                     std::move(in), std::move(socket_), route, &watch_,
                                     !route.empty(), stats_});
    return {};
  }

  std::shared_ptr<Segment> out_segment_;  // shared with the channel
  std::shared_ptr<Segment> in_segment_;
  ZmqSocket socket_;  // until the channel takes it
  Welcome welcome_;
  const PeerWatch& watch_;
  TransportStats* const stats_;
  std::unique_ptr<Channel> channel_;
};

Result<ZmqSocket> data_socket(const ZmqContext& context, ZmqSocketType type,
                              std::string routing_id) {
  return ZmqSocket::create(context, type,
                           data_socket_options(std::move(routing_id), kHeartbeatTimeout));
}

}  // namespace

Result<std::unique_ptr<SessionChannel>> SessionChannel::offer(const ZmqContext& context,
                                                              Welcome& welcome,
                                                              const std::string& wanted_endpoint,
                                                              const PeerWatch& watch,
                                                              TransportStats* stats) {
  ASSIGN_OR_RETURN(ZmqSocket socket, data_socket(context, ZmqSocketType::kRouter, ""));
  ASSIGN_OR_RETURN(welcome.data_endpoint, socket.bind(wanted_endpoint));
  auto made = std::make_unique<SessionChannelImpl>(std::move(socket), welcome, watch, stats);
  if (welcome.has_ring) {
    if (Status status = made->make_segments(welcome); !status.ok()) {
      made->set_welcome(welcome);  // its socket is among the files
      made->remove_files();
      return status;
    }
  }
  made->set_welcome(welcome);
  return std::unique_ptr<SessionChannel>(std::move(made));
}

Result<std::unique_ptr<SessionChannel>> SessionChannel::attach(const ZmqContext& context,
                                                               const Welcome& welcome,
                                                               const std::string& data_endpoint,
                                                               const PeerWatch& watch,
                                                               Deadline deadline) {
  ASSIGN_OR_RETURN(ZmqSocket socket, data_socket(context, ZmqSocketType::kDealer, welcome.token));
  auto made = std::make_unique<SessionChannelImpl>(std::move(socket), welcome, watch, nullptr);
  RETURN_IF_ERROR(made->attach_to_server(data_endpoint, deadline));
  return std::unique_ptr<SessionChannel>(std::move(made));
}

}  // namespace airlock
