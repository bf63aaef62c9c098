// Round trips of one large tensor by a channel that has ZeroMQ alone, by one whose connection is
// encrypted with keys, and of the same bytes through a bare socket, in turn; all over TCP on
// loopback. On each route the peer copies what came into its reply, as it would compute one.
//   socket_echo [ROUNDS]      (15)
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/file.h"
#include "bench/record.h"
#include "runtime/channel/routed_channel.h"
#include "runtime/channel/socket_carrier.h"
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

std::unique_ptr<Channel> make_channel(UniqueFd fd, const StreamSecurity* security,
                                      StreamRole role) {
  RoutedChannelOptions options;
  options.policy = {.limit_bytes = limits::kDefaultSlotBytes};
  SocketStream stream = must(SocketStream::open(std::move(fd), security, role));
  options.carriers[Path::kZmq] =
      make_socket_carrier({kEpoch, ZmtpSocket(std::move(stream)), nullptr}).carrier;
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

void run(std::size_t rounds) {
  const SecretKey one = must(SecretKey::make("one"));
  const SecretKey other = must(SecretKey::make("other"));
  const auto ours = must(make_tls(one, {{other.public_key()}, "other"}));
  const auto theirs = must(make_tls(other, {{one.public_key()}, "one"}));
  Ends plain = make_pair(SOCK_NONBLOCK);
  Ends secured = make_pair(SOCK_NONBLOCK);
  Ends bare = make_pair(0);
  const auto serve = [](Ends& ends, const StreamSecurity* security) {
    return peer_that([&] {
      echo_messages(*make_channel(std::move(ends.theirs), security, StreamRole::kServer));
    });
  };
  const pid_t peers[] = {serve(plain, nullptr), serve(secured, theirs.get()),
                         peer_that([&] { echo_bytes(bare.theirs.get()); })};
  const auto channel = make_channel(std::move(plain.ours), nullptr, StreamRole::kClient);
  const auto with_keys = make_channel(std::move(secured.ours), ours.get(), StreamRole::kClient);
  fmt::print(
      "| payload bytes | rounds | bare socket, median ms | channel | with keys | channel / bare | "
      "keys / channel | GB/s one way: bare | channel | with keys |\n"
      "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (const std::uint64_t bytes : {std::uint64_t{10} << 20, std::uint64_t{128} << 20}) {
    std::vector<std::byte> source(bytes);
    for (std::size_t i = 0; i < bytes; ++i) source[i] = static_cast<std::byte>(i * 31 + i / 4096);
    std::vector<std::byte> target(bytes);
    std::array<std::vector<double>, 3> ms;
    for (std::size_t i = 0; i < rounds + 2; ++i) {
      const std::array<double, 3> took = {bare_ms(bare.ours.get(), source, target),
                                          echo_ms(*channel, source), echo_ms(*with_keys, source)};
      for (std::size_t route = 0; i >= 2 && route < took.size(); ++route)
        ms[route].push_back(took[route]);
    }
    std::array<double, 3> median{};
    for (std::size_t route = 0; route < ms.size(); ++route)
      median[route] = bench::median_of(std::move(ms[route]));
    const auto rate = [&](double half) { return 2 * static_cast<double>(bytes) / half / 1e6; };
    fmt::print(
        "| {} | {} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |\n",
        bytes, rounds, median[0], median[1], median[2], median[1] / median[0],
        median[2] / median[1], rate(median[0]), rate(median[1]), rate(median[2]));
  }
  end_echo(*channel);
  end_echo(*with_keys);
  const std::uint64_t end = 0;
  (void)write_all(bare.ours.get(), reinterpret_cast<const std::byte*>(&end), sizeof(end));
  for (const pid_t peer : peers) ::waitpid(peer, nullptr, 0);
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  const unsigned long rounds = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 15;
  if (argc > 2 || rounds == 0 || rounds > 10'000) {
    std::fprintf(stderr, "usage: socket_echo [ROUNDS, 1 to 10000]\n");
    return 2;
  }
  airlock::run(rounds);
  return 0;
}
