#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "runtime/channel/ring_carrier.h"
#include "runtime/channel/routed_channel.h"
#include "runtime/channel/socket_carrier.h"
#include "shm/ring_memory.h"
#include "tests/support/in_process_channel.h"

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
    return ZmqSocket::create(
               *context, type,
               {.routing_id = token, .heartbeat_timeout = std::chrono::milliseconds(5000)})
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

/// One end of a session's channel, with rings or without.
inline std::unique_ptr<Channel> make_end(ZmqSocket socket, const std::string& route,
                                         const PeerWatch* watch = nullptr,
                                         const std::shared_ptr<Segment>& out = nullptr,
                                         const std::shared_ptr<Segment>& in = nullptr) {
  WatchedCarrier by_socket = make_socket_carrier({kEpoch, std::move(socket), route, watch, false});
  RoutedChannelOptions options;
  options.policy = {out != nullptr, kGeometry.slot_bytes,
                    out != nullptr ? kGeometry.slot_count : 0};
  if (out != nullptr) {
    options.carriers[Path::kRing] =
        make_ring_carrier({out, in, kGeometry, kEpoch, std::move(by_socket.check_peer)}).value();
  }
  options.carriers[Path::kZmq] = std::move(by_socket.carrier);
  return make_routed_channel(std::move(options));
}

inline Rig make_ring_rig(const PeerWatch* watch = nullptr) {
  SocketPair sockets(Transport::kIpc);
  RingPair rings;
  auto server = make_end(std::move(sockets.server), kToken, watch, rings.reply, rings.request);
  auto runner = make_end(std::move(sockets.runner), "", watch, rings.request, rings.reply);
  return {std::move(sockets.context), std::move(server), std::move(runner)};
}

inline Rig make_socket_rig(Transport transport, const PeerWatch* watch = nullptr) {
  SocketPair sockets(transport);
  auto server = make_end(std::move(sockets.server), kToken, watch);
  auto runner = make_end(std::move(sockets.runner), "", watch);
  return {std::move(sockets.context), std::move(server), std::move(runner)};
}

inline Rig make_in_process_rig() {
  auto [server, runner] = make_in_process_pair({true, kGeometry.slot_bytes, kGeometry.slot_count});
  return {nullptr, std::move(server), std::move(runner)};
}

/// A header that implies its message's sizes: `number`, their count, each of them, and then some
/// bytes more, as `number` says.
inline std::vector<std::byte> header_of(std::uint64_t number,
                                        const std::vector<std::size_t>& sizes) {
  std::vector<std::uint64_t> words{number, sizes.size()};
  words.insert(words.end(), sizes.begin(), sizes.end());
  std::vector<std::byte> header(words.size() * sizeof(number) + number % 50);
  std::memcpy(header.data(), words.data(), words.size() * sizeof(number));
  return header;
}
/// Accepts all such headers.
inline Result<std::vector<std::size_t>> sizes_in(std::span<const std::byte> header) {
  const auto word = [&](std::size_t index) {
    std::uint64_t value = 0;
    std::memcpy(&value, header.data() + index * sizeof(value), sizeof(value));
    return value;
  };
  if (header.size() < 16 || word(1) > header.size() / 8 - 2) {
    return Status(StatusCode::kProtocolError, "no header of a test");
  }
  std::vector<std::size_t> sizes;
  for (std::size_t i = 0; i < word(1); ++i) sizes.push_back(word(2 + i));
  return sizes;
}

}  // namespace airlock::testing_rigs
