#include "runtime/secure/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "runtime/channel/zmtp_socket.h"

namespace airlock {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using Bytes = std::vector<std::byte>;
using Security = std::shared_ptr<const StreamSecurity>;

Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }

SecretKey key(const std::string& name) { return SecretKey::make(name).value(); }
Security knows(const SecretKey& own, const SecretKey& other,
               std::uint64_t bytes_a_key = kBytesAKey) {
  return make_tls(own, {{other.public_key()}, "known.pub"}, bytes_a_key).value();
}

std::pair<UniqueFd, UniqueFd> connected() {
  std::array<int, 2> ends{};
  CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<std::size_t> send(SocketStream& to, std::span<const std::byte> bytes) {
  const iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  return to.send({&part, 1});
}
Result<std::size_t> receive(SocketStream& from, std::span<std::byte> into) {
  const iovec part{into.data(), into.size()};
  return from.receive({&part, 1});
}

/// Both ends; each goes on with what it is about, in turn, until both have come to an end of that.
struct Pair {
  SocketStream client;
  SocketStream server;

  Pair(UniqueFd client_fd, UniqueFd server_fd, const StreamSecurity* clients,
       const StreamSecurity* servers)
      : client(SocketStream::open(std::move(client_fd), clients, StreamRole::kClient).value()),
        server(SocketStream::open(std::move(server_fd), servers, StreamRole::kServer).value()) {}

  /// What came of the handshake at either end.
  std::pair<Status, Status> meet() {
    Status one(StatusCode::kBusy, "");
    Status two(StatusCode::kBusy, "");
    for (int i = 0; i < 20; ++i) {
      if (one.code() == StatusCode::kBusy) one = step(client);
      if (two.code() == StatusCode::kBusy) two = step(server);
    }
    return {one, two};
  }
  static Status step(SocketStream& end) {
    Status status = end.shake_hands(Deadline::now());
    if (status.code() != StatusCode::kDeadlineExceeded) return status;
    return {StatusCode::kBusy, status.message()};
  }
};

Pair pair_of(const Security& clients, const Security& servers) {
  auto [client, server] = connected();
  return {std::move(client), std::move(server), clients.get(), servers.get()};
}

/// `count` bytes from one end to the other, while there is room.
Bytes carried(SocketStream& from, SocketStream& to, const Bytes& bytes) {
  Bytes came(bytes.size());
  std::size_t sent = 0;
  std::size_t got = 0;
  for (const Deadline end = soon(); got < came.size() && !end.expired();) {
    if (sent < bytes.size()) {
      const auto taken = send(from, std::span(bytes).subspan(sent));
      if (taken.ok()) sent += *taken;
      EXPECT_THAT(taken.status().code(), AnyOf(StatusCode::kOk, StatusCode::kBusy))
          << taken.status().to_string();
    }
    const auto more = receive(to, std::span(came).subspan(got));
    if (more.ok()) got += *more;
    EXPECT_THAT(more.status().code(), AnyOf(StatusCode::kOk, StatusCode::kBusy))
        << more.status().to_string();
  }
  came.resize(got);
  return came;
}

Bytes random_bytes(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

class Tls : public ::testing::Test {
 protected:
  const SecretKey alice_ = key("alice");
  const SecretKey server_ = key("server");
  const SecretKey mallory_ = key("mallory");
};

TEST_F(Tls, carries_bytes_both_ways_between_those_who_know_each_other) {
  const Security clients = knows(alice_, server_);
  const Security servers = knows(server_, alice_);
  Pair pair = pair_of(clients, servers);
  const auto [one, two] = pair.meet();
  ASSERT_TRUE(one.ok()) << one.to_string();
  ASSERT_TRUE(two.ok()) << two.to_string();
  for (const std::size_t count : {1U, 16384U, 16385U, 3000000U}) {
    const Bytes bytes = random_bytes(count, static_cast<std::uint32_t>(count));
    EXPECT_TRUE(carried(pair.client, pair.server, bytes) == bytes);
    EXPECT_TRUE(carried(pair.server, pair.client, bytes) == bytes);
  }
}

TEST_F(Tls, takes_another_key_when_much_was_sent) {
  const Security clients = knows(alice_, server_, 100000);
  const Security servers = knows(server_, alice_, 70000);
  Pair pair = pair_of(clients, servers);
  (void)pair.meet();
  const Bytes bytes = random_bytes(2000000, 5);
  EXPECT_TRUE(carried(pair.client, pair.server, bytes) == bytes);
  EXPECT_TRUE(carried(pair.server, pair.client, bytes) == bytes);
  EXPECT_TRUE(carried(pair.client, pair.server, bytes) == bytes);
}

TEST_F(Tls, lets_no_unlisted_key_in_and_says_which_line_is_missing) {
  const Security clients = knows(mallory_, server_);
  const Security servers = knows(server_, alice_);
  Pair pair = pair_of(clients, servers);
  const auto [one, two] = pair.meet();
  EXPECT_EQ(one.code(), StatusCode::kMismatch) << one.to_string();
  EXPECT_THAT(one.message(), HasSubstr(mallory_.public_key().line()));
  EXPECT_EQ(two.code(), StatusCode::kMismatch) << two.to_string();
  EXPECT_THAT(two.message(), HasSubstr(mallory_.public_key().line().substr(0, 50)));
  // Neither is open afterwards, whatever is asked.
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(send(pair.client, bytes).status().code(), StatusCode::kMismatch);
  EXPECT_EQ(receive(pair.server, bytes).status().code(), StatusCode::kMismatch);
}

TEST_F(Tls, talks_to_no_other_server) {
  const Security clients = knows(alice_, server_);
  const Security servers = knows(mallory_, alice_);
  Pair pair = pair_of(clients, servers);
  const auto [one, two] = pair.meet();
  EXPECT_EQ(one.code(), StatusCode::kMismatch) << one.to_string();
  EXPECT_THAT(one.message(), HasSubstr("known.pub"));
  EXPECT_EQ(two.code(), StatusCode::kMismatch) << two.to_string();
}

TEST_F(Tls, refuses_who_speaks_without) {
  const Security servers = knows(server_, alice_);
  Pair pair = pair_of(nullptr, servers);
  const std::string words = "hello, let me in, I have no key but many words";
  ASSERT_TRUE(send(pair.client, std::as_bytes(std::span(words))).ok());
  EXPECT_EQ(pair.meet().second.code(), StatusCode::kVersionMismatch);
  const Security clients = knows(alice_, server_);
  Pair other = pair_of(clients, nullptr);
  ASSERT_TRUE(send(other.server, std::as_bytes(std::span(words))).ok());
  EXPECT_EQ(other.meet().first.code(), StatusCode::kVersionMismatch);
}

TEST_F(Tls, says_that_the_peer_has_gone) {
  const Security clients = knows(alice_, server_);
  const Security servers = knows(server_, alice_);
  for (const bool is_met : {false, true}) {
    std::optional<Pair> pair(pair_of(clients, servers));
    if (is_met) (void)pair->meet();
    SocketStream client = std::move(pair->client);
    pair.reset();
    std::array<std::byte, 16> into{};
    EXPECT_EQ(receive(client, into).status().code(), StatusCode::kUnavailable);
  }
}

/// A man in the middle, who passes on what comes and changes one byte of it.
struct Middle {
  UniqueFd towards_client;
  UniqueFd towards_server;
  std::size_t passed = 0;

  /// Whether anything came.
  bool pass(int from, int to, std::size_t damaged, std::byte with, bool counts) {
    std::array<std::byte, 4096> bytes;
    const ssize_t got = ::recv(from, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got <= 0) return false;
    if (counts) {
      if (damaged >= passed && damaged < passed + static_cast<std::size_t>(got))
        bytes[damaged - passed] ^= with;
      passed += static_cast<std::size_t>(got);
    }
    (void)::send(to, bytes.data(), static_cast<std::size_t>(got), MSG_DONTWAIT | MSG_NOSIGNAL);
    return true;
  }
};

TEST_F(Tls, of_a_damaged_stream_nothing_wrong_comes_out) {
  const Security clients = knows(alice_, server_);
  const Security servers = knows(server_, alice_);
  const Bytes bytes = random_bytes(3000, 1);
  std::mt19937 random(7);
  std::size_t damaged_count = 0;
  for (int round = 0; round < 1000; ++round) {
    auto [client_end, client_middle] = connected();
    auto [server_middle, server_end] = connected();
    Pair pair(std::move(client_end), std::move(server_end), clients.get(), servers.get());
    Middle middle{std::move(client_middle), std::move(server_middle)};
    const bool of_client = round % 2 == 0;
    const std::size_t at = random() % 4000;
    const auto with = static_cast<std::byte>(1U << (random() % 8));
    Bytes came(bytes.size());
    std::size_t sent = 0;
    std::size_t got = 0;
    Status one;
    Status two;
    for (int idle = 0; idle < 10;) {
      const auto go_on = [](const Status& status) {
        return status.ok() || status.code() == StatusCode::kBusy;
      };
      if (go_on(one) && sent < bytes.size()) {
        const auto taken = send(pair.client, std::span(bytes).subspan(sent));
        one = taken.status();
        if (taken.ok()) sent += *taken;
      }
      if (go_on(two) && got < came.size()) {
        const auto more = receive(pair.server, std::span(came).subspan(got));
        two = more.status();
        if (more.ok()) got += *more;
      }
      const bool a = middle.pass(middle.towards_client.get(), middle.towards_server.get(), at, with,
                                 of_client);
      const bool b = middle.pass(middle.towards_server.get(), middle.towards_client.get(), at, with,
                                 !of_client);
      idle = a || b ? 0 : idle + 1;
    }
    const bool is_damaged = middle.passed > at;
    damaged_count += is_damaged ? 1U : 0U;
    ASSERT_TRUE(
        std::equal(came.begin(), came.begin() + static_cast<std::ptrdiff_t>(got), bytes.begin()))
        << "round " << round;
    if (is_damaged && of_client) {
      EXPECT_LT(got, bytes.size()) << "round " << round << ", byte " << at;
    }
    if (!is_damaged) {
      EXPECT_EQ(got, bytes.size()) << "round " << round << ", byte " << at;
    }
  }
  EXPECT_GT(damaged_count, 500U);
}

TEST_F(Tls, carries_frames_of_zmtp) {
  const Security clients = knows(alice_, server_);
  const Security servers = knows(server_, alice_);
  Pair pair = pair_of(clients, servers);
  ZmtpSocket runner(std::move(pair.client));
  ZmtpSocket server(std::move(pair.server));
  for (int i = 0; i < 20; ++i) {
    (void)runner.flush();
    (void)server.flush();
    std::byte none{};
    (void)runner.receive_into({&none, 1}, Deadline::now());
    (void)server.receive_into({&none, 1}, Deadline::now());
  }
  for (const std::size_t count : {0U, 1U, 255U, 256U, 20000U, 9000000U}) {
    const auto bytes = std::make_shared<const Bytes>(random_bytes(count, 3));
    Bytes came(count);
    runner.queue(*bytes, bytes);
    Result<std::size_t> size = Status(StatusCode::kDeadlineExceeded, "");
    for (const Deadline end = soon();
         size.status().code() == StatusCode::kDeadlineExceeded && !end.expired();) {
      const Status sent = runner.flush();
      ASSERT_THAT(sent.code(), AnyOf(StatusCode::kOk, StatusCode::kBusy)) << sent.to_string();
      size = server.receive_into(came, Deadline::now());
    }
    ASSERT_TRUE(size.ok()) << size.status().to_string();
    EXPECT_EQ(*size, count);
    EXPECT_TRUE(came == *bytes);
  }
}

TEST_F(Tls, wakes_who_waits_for_what_it_holds_already) {
  const Security clients = knows(alice_, server_);
  const Security servers = knows(server_, alice_);
  Pair pair = pair_of(clients, servers);
  (void)pair.meet();
  // Two records, which are read from the socket at once; one is taken.
  const Bytes bytes = random_bytes(40000, 1);
  EXPECT_EQ(*send(pair.client, bytes), bytes.size());
  std::array<std::byte, 8> some{};
  EXPECT_EQ(*receive(pair.server, some), some.size());
  EXPECT_TRUE(pair.server.holds_bytes());
}

TEST_F(Tls, does_not_wake_who_waits_for_the_rest_of_a_record) {
  const Security clients = knows(alice_, server_);
  const Security servers = knows(server_, alice_);
  auto [client_end, client_middle] = connected();
  auto [server_middle, server_end] = connected();
  Pair pair(std::move(client_end), std::move(server_end), clients.get(), servers.get());
  Middle middle{std::move(client_middle), std::move(server_middle)};
  const auto pass_all = [&] {
    (void)middle.pass(middle.towards_client.get(), middle.towards_server.get(), 0, {}, false);
    (void)middle.pass(middle.towards_server.get(), middle.towards_client.get(), 0, {}, false);
  };
  for (int i = 0; i < 20; ++i) {
    (void)Pair::step(pair.client);
    (void)Pair::step(pair.server);
    pass_all();
  }
  ASSERT_TRUE(pair.client.is_open() && pair.server.is_open());
  ASSERT_EQ(*send(pair.client, random_bytes(100, 1)), 100U);
  std::array<std::byte, 4096> record;
  const ssize_t size =
      ::recv(middle.towards_client.get(), record.data(), record.size(), MSG_DONTWAIT);
  ASSERT_GT(size, 100);
  const auto most = static_cast<std::size_t>(size) - 1;
  ASSERT_EQ(::send(middle.towards_server.get(), record.data(), most, 0),
            static_cast<ssize_t>(most));
  std::array<std::byte, 200> into{};
  EXPECT_EQ(receive(pair.server, into).status().code(), StatusCode::kBusy);
  EXPECT_FALSE(pair.server.holds_bytes());
  ASSERT_EQ(::send(middle.towards_server.get(), &record[most], 1, 0), 1);
  EXPECT_EQ(*receive(pair.server, into), 100U);
}

}  // namespace
}  // namespace airlock
