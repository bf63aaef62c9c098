// Round trips of one large tensor by a channel that has ZeroMQ alone, and of the same bytes through
// a bare Unix socket, in turn. On both routes the peer copies what came into its reply, as it would
// compute one.
//   socket_echo [ROUNDS]      (15)
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

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
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0, fds) != 0)
    fail(os_error("make a socket pair", errno));
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::unique_ptr<Channel> make_channel(UniqueFd fd) {
  RoutedChannelOptions options;
  options.policy = {.limit_bytes = limits::kDefaultSlotBytes};
  options.carriers[Path::kZmq] =
      make_socket_carrier({kEpoch, ZmtpSocket(std::move(fd)), nullptr}).carrier;
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

void run(std::size_t rounds) {
  Ends zmtp = make_pair(SOCK_NONBLOCK);
  Ends bare = make_pair(0);
  const pid_t peers[] = {peer_that([&] {
                           const auto channel = make_channel(std::move(zmtp.theirs));
                           echo_messages(*channel);
                         }),
                         peer_that([&] { echo_bytes(bare.theirs.get()); })};
  const auto channel = make_channel(std::move(zmtp.ours));
  fmt::print(
      "| payload bytes | rounds | channel, median ms | bare socket, median ms | ratio |\n"
      "| ---: | ---: | ---: | ---: | ---: |\n");
  for (const std::uint64_t bytes : {std::uint64_t{10} << 20, std::uint64_t{128} << 20}) {
    std::vector<std::byte> source(bytes, std::byte{1});
    std::vector<std::byte> target(bytes);
    std::vector<double> channel_ms;
    std::vector<double> bare_ms;
    for (std::size_t i = 0; i < rounds + 2; ++i) {
      auto message = must(channel->prepare(std::vector<std::size_t>{bytes}, in_a_while()));
      std::memcpy(message->tensor(0).data(), source.data(), bytes);
      const std::uint64_t start = now_ns();
      must(channel->send(*message, header_of(bytes), in_a_while()));
      message.reset();
      auto reply = must(channel->receive(Accept(size_in), in_a_while()));
      const std::uint64_t echoed = now_ns();
      if (reply->tensor(0).size() != bytes) fail({StatusCode::kInternal, "another size came"});
      reply.reset();
      const std::uint64_t again = now_ns();
      if (!write_all(bare.ours.get(), reinterpret_cast<const std::byte*>(&bytes), sizeof(bytes)) ||
          !write_all(bare.ours.get(), source.data(), bytes) ||
          !read_all(bare.ours.get(), target.data(), bytes))
        fail({StatusCode::kInternal, "the bare socket ended"});
      const std::uint64_t read = now_ns();
      if (i < 2) continue;
      channel_ms.push_back(static_cast<double>(echoed - start) / 1e6);
      bare_ms.push_back(static_cast<double>(read - again) / 1e6);
    }
    const double ours = bench::median_of(std::move(channel_ms));
    const double theirs = bench::median_of(std::move(bare_ms));
    fmt::print("| {} | {} | {:.2f} | {:.2f} | {:.2f} |\n", bytes, rounds, ours, theirs,
               ours / theirs);
  }
  const std::uint64_t end = 0;
  const auto last = must(channel->prepare({}, in_a_while()));
  must(channel->send(*last, header_of(end), in_a_while()));
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
