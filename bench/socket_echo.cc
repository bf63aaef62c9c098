// Round trips of one large tensor by channels that have ZeroMQ alone, plain and encrypted with
// keys, over one data socket and over several, and of the same bytes through a bare socket, in
// turn; all over TCP on loopback. On each route the peer copies what came into its reply, as it
// would compute one.
//   socket_echo [ROUNDS [SOCKETS...]]      (15 1 2 4)
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/file.h"
#include "bench/record.h"
#include "runtime/channel/routed_channel.h"
#include "runtime/channel/socket_carrier.h"
#include "runtime/channel/socket_lanes.h"
#include "runtime/rpc/tcp.h"
#include "runtime/secure/tls.h"

namespace airlock {
namespace {

constexpr std::uint64_t kEpoch = 1;

[[noreturn]] void fail(const Status& status) {
  std::fprintf(stderr, "socket_echo: %s\n", status.to_string().c_str());
  std::exit(exit_code(status.code()));
}

template <typename T>
T must(Result<T> result) {
  if (!result.ok()) fail(result.status());
  return std::move(result).value();
}
void must(const Status& status) {
  if (!status.ok()) fail(status);
}

Deadline in_a_while() { return Deadline::after(std::chrono::seconds(30)); }

struct Ends {
  UniqueFd ours;
  UniqueFd theirs;
};

Ends make_pair(int flags) {
  const Endpoint any{Endpoint::Kind::kTcp, {}, "127.0.0.1", "0"};
  const UniqueFd listener = must(listen_tcp(any, 1));
  Endpoint made = any;
  made.port = must(bound_port(listener.get()));
  UniqueFd ours = must(connect_tcp(made, in_a_while()));
  UniqueFd theirs(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | flags));
  if (!theirs.valid()) fail(os_error("accept a connection", errno));
  if (flags == 0) (void)::fcntl(ours.get(), F_SETFL, 0);
  return {std::move(ours), std::move(theirs)};
}

std::unique_ptr<Channel> make_channel(std::vector<UniqueFd> fds, const StreamSecurity* security,
                                      StreamRole role) {
  std::vector<ZmtpSocket> sockets;
  for (UniqueFd& fd : fds)
    sockets.emplace_back(must(SocketStream::open(std::move(fd), security, role)));
  std::vector<ZmtpSocket> further(std::make_move_iterator(sockets.begin() + 1),
                                  std::make_move_iterator(sockets.end()));
  std::unique_ptr<SocketLanes> lanes;
  if (!further.empty()) lanes = must(SocketLanes::start(std::move(further)));
  RoutedChannelOptions options;
  options.policy = {.limit_bytes = limits::kDefaultSlotBytes};
  options.carriers[Path::kZmq] =
      make_socket_carrier({kEpoch, std::move(sockets[0]), nullptr, 0, std::move(lanes)}).carrier;
  return make_routed_channel(std::move(options));
}

/// The header is the tensor's size.
Result<std::vector<std::size_t>> size_in(std::span<const std::byte> header) {
  std::uint64_t bytes = 0;
  if (header.size() != sizeof(bytes)) return Status(StatusCode::kProtocolError, "no size");
  std::memcpy(&bytes, header.data(), sizeof(bytes));
  return std::vector<std::size_t>(bytes > 0 ? 1 : 0, bytes);
}

std::span<const std::byte> header_of(const std::uint64_t& bytes) {
  return std::as_bytes(std::span(&bytes, 1));
}

/// Echoes until a message without a tensor comes.
void echo_messages(Channel& channel) {
  for (;;) {
    const auto request = must(channel.receive(Accept(size_in), in_a_while()));
    if (request->tensor_count() == 0) return;
    const std::uint64_t bytes = request->tensor(0).size();
    const auto reply = must(channel.prepare(std::vector<std::size_t>{bytes}, in_a_while()));
    std::memcpy(reply->tensor(0).data(), request->tensor(0).data(), bytes);
    must(channel.send(*reply, header_of(bytes), in_a_while()));
  }
}

bool read_all(int fd, std::byte* to, std::size_t bytes) {
  while (bytes > 0) {
    const ssize_t got = ::read(fd, to, bytes);
    if (got <= 0) return false;
    to += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

bool write_all(int fd, const std::byte* from, std::size_t bytes) {
  while (bytes > 0) {
    const ssize_t put = ::write(fd, from, bytes);
    if (put <= 0) return false;
    from += put;
    bytes -= static_cast<std::size_t>(put);
  }
  return true;
}

void echo_bytes(int fd) {
  std::vector<std::byte> came;
  std::vector<std::byte> reply;
  for (;;) {
    std::uint64_t bytes = 0;
    if (!read_all(fd, reinterpret_cast<std::byte*>(&bytes), sizeof(bytes)) || bytes == 0) return;
    came.resize(bytes);
    reply.resize(bytes);
    if (!read_all(fd, came.data(), bytes)) return;
    std::memcpy(reply.data(), came.data(), bytes);
    if (!write_all(fd, reply.data(), bytes)) return;
  }
}

/// Runs `body` in a process of its own.
template <typename Body>
pid_t peer_that(const Body& body) {
  std::fflush(stdout);
  const pid_t peer = ::fork();
  if (peer != 0) return peer;
  body();
  ::_exit(0);
}

/// Milliseconds from the first byte sent to the last one that came back.
double echo_ms(Channel& channel, std::span<const std::byte> source) {
  const std::uint64_t bytes = source.size();
  auto message = must(channel.prepare(std::vector<std::size_t>{bytes}, in_a_while()));
  std::memcpy(message->tensor(0).data(), source.data(), bytes);
  const std::uint64_t start = now_ns();
  must(channel.send(*message, header_of(bytes), in_a_while()));
  message.reset();
  const auto reply = must(channel.receive(Accept(size_in), in_a_while()));
  const std::uint64_t echoed = now_ns();
  const std::span<const std::byte> came = reply->tensor(0);
  if (came.size() != bytes || std::memcmp(came.data(), source.data(), bytes) != 0)
    fail({StatusCode::kInternal, "other bytes came back"});
  return static_cast<double>(echoed - start) / 1e6;
}

double bare_ms(int fd, std::span<const std::byte> source, std::span<std::byte> target) {
  const std::uint64_t bytes = source.size();
  const std::uint64_t start = now_ns();
  if (!write_all(fd, reinterpret_cast<const std::byte*>(&bytes), sizeof(bytes)) ||
      !write_all(fd, source.data(), bytes) || !read_all(fd, target.data(), bytes))
    fail({StatusCode::kInternal, "the bare socket ended"});
  return static_cast<double>(now_ns() - start) / 1e6;
}

void end_echo(Channel& channel) {
  const std::uint64_t end = 0;
  const auto last = must(channel.prepare({}, in_a_while()));
  must(channel.send(*last, header_of(end), in_a_while()));
}

struct Keys {
  std::shared_ptr<const StreamSecurity> ours;
  std::shared_ptr<const StreamSecurity> theirs;
};

/// A way to a peer of its own.
struct Route {
  std::string name;
  std::vector<UniqueFd> ends{};  // until connect(), but for the bare socket
  std::shared_ptr<const StreamSecurity> security{};
  std::size_t sockets = 1;
  std::unique_ptr<Channel> channel{};  // null: the bare socket
  std::vector<double> ms{};
  std::vector<double> cpu_ms{};

  void connect() {
    sockets = ends.size();
    channel = make_channel(std::move(ends), security.get(), StreamRole::kClient);
  }
  double round_trip(std::span<const std::byte> source, std::span<std::byte> target) {
    return channel ? echo_ms(*channel, source) : bare_ms(ends[0].get(), source, target);
  }
  void end() {
    const std::uint64_t none = 0;
    if (channel) return end_echo(*channel);
    (void)write_all(ends[0].get(), reinterpret_cast<const std::byte*>(&none), sizeof(none));
  }
};

/// Forks the peer of a route that is to be connected.
Route make_route(std::string name, std::size_t sockets, const Keys& keys,
                 std::vector<pid_t>& peers) {
  Route route{std::move(name), {}, keys.ours};
  std::vector<UniqueFd> theirs;
  for (std::size_t i = 0; i < sockets; ++i) {
    Ends ends = make_pair(SOCK_NONBLOCK);
    route.ends.push_back(std::move(ends.ours));
    theirs.push_back(std::move(ends.theirs));
  }
  peers.push_back(peer_that([&] {
    echo_messages(*make_channel(std::move(theirs), keys.theirs.get(), StreamRole::kServer));
  }));
  return route;
}

/// Of this process, all threads.
double cpu_ms_now() {
  rusage used{};
  (void)::getrusage(RUSAGE_SELF, &used);
  const auto ms = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_usec) / 1e3;
  };
  return ms(used.ru_utime) + ms(used.ru_stime);
}

void measure(std::vector<Route>& routes, std::uint64_t bytes, std::size_t rounds) {
  constexpr std::size_t kWarmUp = 2;
  std::vector<std::byte> source(bytes);
  for (std::size_t i = 0; i < bytes; ++i) source[i] = static_cast<std::byte>(i * 31 + i / 4096);
  std::vector<std::byte> target(bytes);
  for (std::size_t i = 0; i < rounds + kWarmUp; ++i) {
    for (Route& route : routes) {
      const double before = cpu_ms_now();
      const double took = route.round_trip(source, target);
      if (i < kWarmUp) continue;
      route.ms.push_back(took);
      route.cpu_ms.push_back(cpu_ms_now() - before);
    }
  }
  double bare_ms = 0;
  for (Route& route : routes) {
    const double median = bench::median_of(std::exchange(route.ms, {}));
    if (bare_ms == 0) bare_ms = median;  // the first
    fmt::print("| {} | {} | {} | {} | {:.2f} | {:.2f} | {:.2f} | {:.1f} |\n", bytes, route.name,
               route.sockets, rounds, median, 2 * static_cast<double>(bytes) / median / 1e6,
               median / bare_ms, bench::median_of(std::exchange(route.cpu_ms, {})));
  }
}

void run(std::size_t rounds, const std::vector<std::size_t>& counts) {
  const SecretKey one = must(SecretKey::make("one"));
  const SecretKey other = must(SecretKey::make("other"));
  const Keys keys{must(make_tls(one, {{other.public_key()}, "other"})),
                  must(make_tls(other, {{one.public_key()}, "one"}))};
  std::vector<pid_t> peers;
  std::vector<Route> routes;
  Ends bare = make_pair(0);
  peers.push_back(peer_that([&] { echo_bytes(bare.theirs.get()); }));
  routes.push_back({"bare socket"});
  routes.back().ends.push_back(std::move(bare.ours));
  for (const std::size_t count : counts) {
    routes.push_back(make_route("channel", count, {}, peers));
    routes.push_back(make_route("with keys", count, keys, peers));
  }
  // Only now: connections have threads, and threads do not survive a fork().
  for (Route& route : std::span(routes).subspan(1)) route.connect();
  fmt::print(
      "| payload bytes | route | sockets | rounds | median ms | GB/s one way | against bare | CPU "
      "ms, "
      "this end |\n"
      "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (const std::uint64_t bytes : {std::uint64_t{10} << 20, std::uint64_t{128} << 20})
    measure(routes, bytes, rounds);
  for (Route& route : routes) route.end();
  for (const pid_t peer : peers) ::waitpid(peer, nullptr, 0);
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  constexpr unsigned long kMostRounds = 10'000;
  const unsigned long rounds = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 15;
  std::vector<std::size_t> counts;
  for (int i = 2; i < argc; ++i) counts.push_back(std::strtoul(argv[i], nullptr, 10));
  if (counts.empty()) counts = {1, 2, 4};
  const auto is_wrong = [](std::size_t count) {
    return count < 1 || count > airlock::limits::kMaxDataSockets;
  };
  if (rounds == 0 || rounds > kMostRounds || std::ranges::any_of(counts, is_wrong)) {
    std::fprintf(stderr, "usage: socket_echo [ROUNDS, 1 to 10000 [SOCKETS, 1 to 8...]]\n");
    return 2;
  }
  airlock::run(rounds, counts);
  return 0;
}
