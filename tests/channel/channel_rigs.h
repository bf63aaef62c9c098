#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "runtime/channel/in_process_channel.h"
#include "runtime/channel/local_channel.h"
#include "runtime/channel/zmq_channel.h"
#include "shm/ring_memory.h"

namespace airlock::testing_rigs {

inline constexpr std::uint64_t kEpoch = 0x1234567890abcdef;
inline const std::string kToken = "00112233445566778899aabbccddeeff";
inline constexpr RingGeometry kGeometry{8, 65536};

inline Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }
inline Deadline shortly() { return Deadline::after(std::chrono::milliseconds(100)); }

enum class Transport { kIpc, kTcp };

/// Where this program's Unix sockets lie; libzmq leaves them behind, so the directory goes with the
/// program.
class SocketDirectory {
 public:
  SocketDirectory() { CHECK(::mkdtemp(path_.data()) != nullptr); }
  ~SocketDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  SocketDirectory(const SocketDirectory&) = delete;
  SocketDirectory& operator=(const SocketDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/airlock-channel-XXXXXX";
};

inline std::string fresh_endpoint(Transport transport) {
  static std::atomic<int> counter{0};
  if (transport == Transport::kTcp) return "tcp://127.0.0.1:*";
  static const SocketDirectory directory;
  return "ipc://" + directory.path() + "/" + std::to_string(counter.fetch_add(1));
}

/// A context and the two data sockets of one session.
struct SocketPair {
  std::unique_ptr<ZmqContext> context = ZmqContext::create().value();
  ZmqSocket server;
  std::string endpoint;
  ZmqSocket runner;

  explicit SocketPair(Transport transport, const std::string& token = kToken)
      : server(make(ZmqSocketType::kRouter, "")),
        endpoint(server.bind(fresh_endpoint(transport)).value()),
        runner(make(ZmqSocketType::kDealer, token)) {
    CHECK(runner.connect(endpoint).ok());
  }
  ZmqSocket make(ZmqSocketType type, const std::string& token) const {
    return ZmqSocket::create(*context, type,
                             data_socket_options(token, std::chrono::milliseconds(5000)))
        .value();
  }
};

/// Two rings in segments that both ends share.
struct RingPair {
  std::shared_ptr<Segment> request;
  std::shared_ptr<Segment> reply;

  RingPair() : request(make('q')), reply(make('r')) {}
  static std::shared_ptr<Segment> make(char kind) {
    static std::atomic<int> counter{0};
    const std::string name = "airlock-test-" + std::to_string(::getpid()) + "-" +
                             std::to_string(counter.fetch_add(1)) + kind;
    std::shared_ptr<Segment> segment =
        Segment::create(name, ring_segment_bytes(kGeometry).value()).value();
    CHECK(format_ring(*segment, kGeometry, kEpoch).ok());
    segment->unlink();
    return segment;
  }
};

struct Rig {
  std::unique_ptr<ZmqContext> context;  // destroyed last
  std::unique_ptr<Channel> server;
  std::unique_ptr<Channel> runner;
};

inline std::unique_ptr<Channel> make_local_end(const std::shared_ptr<Segment>& out,
                                               const std::shared_ptr<Segment>& in, ZmqSocket socket,
                                               std::string route,
                                               const PeerWatch* watch = nullptr) {
  return LocalChannel::create({kEpoch, out, in,
                               RingProducer::create(*out, kGeometry, kEpoch).value(),
                               RingConsumer::create(*in, kGeometry, kEpoch).value(),
                               std::move(socket), std::move(route), watch});
}

inline Rig make_local_rig() {
  SocketPair sockets(Transport::kIpc);
  RingPair rings;
  auto server = make_local_end(rings.reply, rings.request, std::move(sockets.server), kToken);
  auto runner = make_local_end(rings.request, rings.reply, std::move(sockets.runner), "");
  return {std::move(sockets.context), std::move(server), std::move(runner)};
}

inline Rig make_zmq_rig(Transport transport) {
  SocketPair sockets(transport);
  auto server = ZmqChannel::create(
      {kEpoch, kGeometry.slot_bytes, std::move(sockets.server), kToken, nullptr});
  auto runner =
      ZmqChannel::create({kEpoch, kGeometry.slot_bytes, std::move(sockets.runner), "", nullptr});
  return {std::move(sockets.context), std::move(server), std::move(runner)};
}

inline Rig make_in_process_rig() {
  auto [server, runner] = make_in_process_pair({true, kGeometry.slot_bytes, kGeometry.slot_count});
  return {nullptr, std::move(server), std::move(runner)};
}

}  // namespace airlock::testing_rigs
