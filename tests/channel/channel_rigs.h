#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/channel/pool_carrier.h"
#include "runtime/channel/ring_carrier.h"
#include "runtime/channel/routed_channel.h"
#include "runtime/channel/socket_carrier.h"
#include "shm/ring_memory.h"
#include "tests/pool/pool_pair.h"
#include "tests/support/in_process_channel.h"

namespace airlock::testing_rigs {

inline constexpr std::uint64_t kEpoch = 0x1234567890abcdef;
inline constexpr RingGeometry kGeometry{8, 65536};

inline Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }
inline Deadline shortly() { return Deadline::after(std::chrono::milliseconds(100)); }
/// Waits, with a watchdog, until `condition` holds.
template <typename Condition>
bool eventually(const Condition& condition) {
  for (const Deadline end = soon(); !end.expired();) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

enum class Transport { kIpc, kTcp };

/// Where this program's Unix sockets lie; the directory goes with the program.
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

inline std::string fresh_path() {
  static std::atomic<int> counter{0};
  static const SocketDirectory directory;
  return directory.path() + "/" + std::to_string(counter.fetch_add(1));
}

/// A socket that listens, and where.
struct Listener {
  UniqueFd fd;
  std::string endpoint;

  explicit Listener(Transport transport) : fd(make_socket(transport)), transport_(transport) {
    size_ = sizeof(port_);
    if (transport == Transport::kTcp) {
      port_.sin_family = AF_INET;
      port_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      CHECK(::bind(fd.get(), address(), size_) == 0);
      CHECK(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&port_), &size_) == 0);
      endpoint = "tcp://127.0.0.1:" + std::to_string(ntohs(port_.sin_port));
    } else {
      const std::string name = fresh_path();
      path_.sun_family = AF_UNIX;
      std::copy(name.begin(), name.end(), path_.sun_path);
      size_ = sizeof(path_);
      CHECK(::bind(fd.get(), address(), size_) == 0);
      endpoint = "ipc://" + name;
    }
    CHECK(::listen(fd.get(), 4) == 0);
  }
  /// Connected to it, and does not block.
  UniqueFd connect() const {
    UniqueFd end = make_socket(transport_);
    CHECK(::connect(end.get(), address(), size_) == 0 || errno == EINPROGRESS);
    pollfd connected{end.get(), POLLOUT, 0};
    CHECK(::poll(&connected, 1, 10'000) == 1);
    return end;
  }

 private:
  static UniqueFd make_socket(Transport transport) {
    return UniqueFd(::socket(transport == Transport::kTcp ? AF_INET : AF_UNIX,
                             SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  }
  const sockaddr* address() const {
    return transport_ == Transport::kTcp ? reinterpret_cast<const sockaddr*>(&port_)
                                         : reinterpret_cast<const sockaddr*>(&path_);
  }

  Transport transport_;
  sockaddr_un path_{};
  sockaddr_in port_{};
  socklen_t size_ = 0;
};

/// The two data sockets of one session.
struct SocketPair {
  ZmtpSocket server;
  ZmtpSocket runner;
  /// The runner's connection once more, for what no socket of ours would do.
  UniqueFd runner_connection;

  explicit SocketPair(Transport transport, const StreamSecurity* of_server = nullptr)
      : SocketPair(connect(transport), of_server) {}

 private:
  struct Ends {
    UniqueFd server;
    UniqueFd runner;
  };
  SocketPair(Ends ends, const StreamSecurity* of_server)
      : server(SocketStream::open(std::move(ends.server), of_server, StreamRole::kServer).value()),
        runner(SocketStream(UniqueFd(::fcntl(ends.runner.get(), F_DUPFD_CLOEXEC, 0)))),
        runner_connection(std::move(ends.runner)) {
    // They shake hands.
    for (int i = 0; i < 2; ++i) {
      CHECK(server.flush().ok());
      CHECK(runner.flush().ok());
    }
  }
  static Ends connect(Transport transport) {
    const Listener listener(transport);
    UniqueFd runner = listener.connect();
    pollfd knock{listener.fd.get(), POLLIN, 0};
    CHECK(::poll(&knock, 1, 10'000) == 1);
    UniqueFd server(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    CHECK(server.valid());
    return {std::move(server), std::move(runner)};
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
  /// Before the channels, which lie in it; null without a pool.
  std::unique_ptr<PoolPair> pool;
  std::unique_ptr<Channel> server;
  std::unique_ptr<Channel> runner;
};

/// Of a session whose rings have kGeometry.
inline PathPolicy policy_of(bool has_ring, bool has_pool, std::size_t inline_bytes) {
  PathPolicy policy{has_ring, kGeometry.slot_bytes, has_ring ? kGeometry.slot_count : 0, has_pool,
                    inline_bytes};
  if (inline_bytes > 0) {
    policy.inline_room = has_ring
                             ? std::min<std::size_t>(limits::kMaxInlineBytes, kGeometry.slot_bytes)
                             : limits::kMaxInlineBytes;
  }
  return policy;
}

/// One end of a session's channel, with rings or without.
inline std::unique_ptr<Channel> make_end(ZmtpSocket socket, const PeerWatch* watch = nullptr,
                                         const std::shared_ptr<Segment>& out = nullptr,
                                         const std::shared_ptr<Segment>& in = nullptr,
                                         const PoolMap* pool = nullptr,
                                         std::function<bool()> pool_lost = {},
                                         std::size_t inline_bytes = 0,
                                         std::unique_ptr<SocketLanes> lanes = {}) {
  RoutedChannelOptions options;
  options.policy = policy_of(out != nullptr, pool != nullptr, inline_bytes);
  WatchedCarrier by_socket =
      make_socket_carrier({kEpoch, std::move(socket), watch,
                           out != nullptr ? 0 : options.policy.inline_room, std::move(lanes)});
  if (pool != nullptr)
    options.carriers[Path::kPool] = make_pool_carrier(*pool, std::move(pool_lost));
  if (out != nullptr) {
    options.carriers[Path::kRing] =
        make_ring_carrier({out, in, kGeometry, kEpoch, std::move(by_socket.check_peer)}).value();
  }
  options.carriers[Path::kZmq] = std::move(by_socket.carrier);
  return make_routed_channel(std::move(options));
}

inline Rig make_ring_rig(const PeerWatch* watch = nullptr, std::size_t inline_bytes = 0) {
  SocketPair sockets(Transport::kIpc);
  RingPair rings;
  auto server = make_end(std::move(sockets.server), watch, rings.reply, rings.request, nullptr, {},
                         inline_bytes);
  auto runner = make_end(std::move(sockets.runner), watch, rings.request, rings.reply, nullptr, {},
                         inline_bytes);
  return {nullptr, std::move(server), std::move(runner)};
}

/// Rings and a pool: tensors of a page to a slot of the pool take it, larger ones ZeroMQ.
inline Rig make_pool_rig(const PeerWatch* watch = nullptr) {
  SocketPair sockets(Transport::kIpc);
  RingPair rings;
  auto pool = std::make_unique<PoolPair>();
  const PoolMap of_server = pool->server_map();
  auto server = make_end(std::move(sockets.server), watch, rings.reply, rings.request, &of_server);
  auto runner = make_end(std::move(sockets.runner), watch, rings.request, rings.reply,
                         &pool->lease->pool_map());
  return {std::move(pool), std::move(server), std::move(runner)};
}

inline Rig make_socket_rig(Transport transport, const PeerWatch* watch = nullptr,
                           std::size_t inline_bytes = 0) {
  SocketPair sockets(transport);
  auto server = make_end(std::move(sockets.server), watch, {}, {}, nullptr, {}, inline_bytes);
  auto runner = make_end(std::move(sockets.runner), watch, {}, {}, nullptr, {}, inline_bytes);
  return {nullptr, std::move(server), std::move(runner)};
}

/// The data sockets of both ends but the first ones.
struct LanePairs {
  std::vector<ZmtpSocket> server;
  std::vector<ZmtpSocket> runner;
  /// As SocketPair's.
  std::vector<UniqueFd> runner_connections;

  explicit LanePairs(std::size_t count, const StreamSecurity* of_server = nullptr) {
    for (std::size_t i = 0; i < count; ++i) {
      SocketPair pair(Transport::kTcp, of_server);
      server.push_back(std::move(pair.server));
      runner.push_back(std::move(pair.runner));
      runner_connections.push_back(std::move(pair.runner_connection));
    }
  }
};

/// Several data sockets, with rings or without.
inline Rig make_lanes_rig(std::size_t lane_count, bool has_ring, const PeerWatch* watch = nullptr,
                          std::size_t inline_bytes = 0) {
  SocketPair sockets(Transport::kTcp);
  LanePairs lanes(lane_count);
  std::optional<RingPair> rings;
  if (has_ring) rings.emplace();
  const auto request = rings ? rings->request : nullptr;
  const auto reply = rings ? rings->reply : nullptr;
  auto server = make_end(std::move(sockets.server), watch, reply, request, nullptr, {},
                         inline_bytes, SocketLanes::start(std::move(lanes.server)).value());
  auto runner = make_end(std::move(sockets.runner), watch, request, reply, nullptr, {},
                         inline_bytes, SocketLanes::start(std::move(lanes.runner)).value());
  return {nullptr, std::move(server), std::move(runner)};
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
