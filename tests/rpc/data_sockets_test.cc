// Several data sockets of one session: who is let in at the door, and what crosses then.

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/session_channel.h"
#include "runtime/rpc/tcp.h"
#include "runtime/secure/tls.h"

namespace airlock {
namespace {

constexpr std::chrono::seconds kPatience{30};
using Security = std::shared_ptr<const StreamSecurity>;

/// A port whose connections lead to those of another one; each byte is under way for `delay`.
class LongWay {
 public:
  LongWay(const std::string& to, std::chrono::milliseconds delay)
      : to_(parse_endpoint(to).value()),
        delay_(delay),
        here_({Endpoint::Kind::kTcp, {}, "127.0.0.1", "0"}),
        listener_(listen_tcp(here_, limits::kMaxDataSockets).value()) {
    here_.port = bound_port(listener_.get()).value();
    thread_ = std::thread([this] { run(); });
  }
  ~LongWay() {
    is_ending_ = true;
    thread_.join();
  }
  std::string endpoint() const { return here_.text(); }

 private:
  struct Direction {
    int from = -1;
    int to = -1;
    struct Part {
      Deadline due;
      std::string bytes{};  // none: the end
    };
    std::deque<Part> under_way{};
    bool has_ended = false;
  };

  void run() {
    while (!is_ending_) {
      pollfd knock{listener_.get(), POLLIN, 0};
      (void)::poll(&knock, 1, 1);
      if (UniqueFd guest(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK));
          guest.valid()) {
        auto host = connect_data(to_);
        if (!host.ok()) continue;
        ways_.push_back({guest.get(), host->get()});
        ways_.push_back({host->get(), guest.get()});
        ends_.push_back(std::move(guest));
        ends_.push_back(std::move(host).value());
      }
      for (Direction& way : ways_) carry(way);
    }
  }
  void carry(Direction& way) const {
    std::array<char, 65536> bytes{};
    while (!way.has_ended) {
      const ssize_t count = ::recv(way.from, bytes.data(), bytes.size(), MSG_DONTWAIT);
      if (count < 0 && errno == EAGAIN) break;
      way.has_ended = count <= 0;
      way.under_way.push_back(
          {Deadline::after(delay_), {bytes.data(), bytes.data() + std::max<ssize_t>(count, 0)}});
    }
    while (!way.under_way.empty() && way.under_way.front().due.expired()) {
      std::string& part = way.under_way.front().bytes;
      if (part.empty()) (void)::shutdown(way.to, SHUT_WR);
      const ssize_t count = ::send(way.to, part.data(), part.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (count < 0 && errno == EAGAIN) return;
      part.erase(0, count < 0 ? part.size() : static_cast<std::size_t>(count));
      if (part.empty()) way.under_way.pop_front();
    }
  }

  const Endpoint to_;
  const std::chrono::milliseconds delay_;
  Endpoint here_;
  UniqueFd listener_;
  std::vector<UniqueFd> ends_;
  std::vector<Direction> ways_;
  std::atomic<bool> is_ending_ = false;
  std::thread thread_;
};

/// A session at the server, which waits for its runner; `guest` is a thread's body, called with
/// each door that is announced and its number, from 1.
class DataSockets : public ::testing::TestWithParam<bool> {
 protected:
  using Guest = std::function<void(const std::string& door, std::size_t visit)>;

  DataSockets() {
    CHECK(name_session(welcome_).ok());
    welcome_.path_limit = limits::kDefaultSlotBytes;
    welcome_.capabilities = capabilities_of(3);
    if (!GetParam()) return;
    const SecretKey server = SecretKey::make("server").value();
    const SecretKey alice = SecretKey::make("alice").value();
    servers_ = make_tls(server, {{alice.public_key()}, "alice"}).value();
    alices_ = make_tls(alice, {{server.public_key()}, "server"}).value();
  }
  Status accept(const Guest& guest, std::chrono::milliseconds patience = kPatience) {
    server_ = SessionChannel::offer(welcome_, SegmentKind::kSealed, life_, nullptr, servers_.get())
                  .value();
    std::thread visitor;
    const auto announce = [&](const std::string& door) {
      const std::size_t visit = ++visits_;  // the one before gives up
      if (visitor.joinable()) visitor.join();
      visitor = std::thread([&, door, visit] { guest(door, visit); });
    };
    const Endpoint control{Endpoint::Kind::kTcp, {}, "127.0.0.1", "1"};
    const Status accepted = server_->accept(control, announce, Deadline::after(patience));
    ++visits_;
    if (accepted.ok() && runner_ == nullptr) server_.reset();  // who only showed himself sees it
    visitor.join();
    --visits_;
    return accepted;
  }
  void attach_runner() {
    runner_ = SessionChannel::attach(welcome_, {}, life_, alices_.get()).value();
  }
  /// As ClientSession does it, until there is another door.
  void knock(const std::string& door, std::size_t visit) {
    if (runner_ == nullptr) attach_runner();
    ASSERT_TRUE(runner_->connect(door).ok());
    while (runner_->lost() && visits_ == visit)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  /// Connections in this order, each with a word of its own; then until the server has closed them.
  /// Whoever is slow finds the door closed, and gives up.
  void show(const std::string& door, const std::vector<std::string>& words) {
    std::vector<ZmtpSocket> shown;
    for (const std::string& word : words) {
      auto fd = connect_data(parse_endpoint(door).value());
      if (!fd.ok()) return;
      shown.emplace_back(
          SocketStream::open(std::move(fd).value(), alices_.get(), StreamRole::kClient).value());
      if (!shown.back().send(std::as_bytes(std::span(word)), Deadline::after(kPatience)).ok())
        return;
    }
    for (ZmtpSocket& socket : shown) {
      std::array<std::byte, 8> none{};
      EXPECT_EQ(socket.receive_into(none, Deadline::after(kPatience)).status().code(),
                StatusCode::kUnavailable);
    }
  }
  /// 20 MiB there and back.
  void expect_it_works() {
    ASSERT_TRUE(server_->open().ok());
    ASSERT_TRUE(runner_->open().ok());
    constexpr std::size_t kBytes = std::size_t{20} << 20;
    const std::vector<std::size_t> sizes{kBytes};
    const Accept accept_all = [&](std::span<const std::byte>) { return sizes; };
    const std::array<std::byte, 1> header{};
    const auto deadline = [] { return Deadline::after(kPatience); };
    const auto byte_at = [](std::size_t i) { return static_cast<std::byte>(i * 31 + i / 4096); };
    std::thread peer([&] {
      const auto came = server_->channel().receive(accept_all, deadline()).value();
      const auto reply = server_->channel().prepare(sizes, deadline()).value();
      std::ranges::copy(came->tensor(0), reply->tensor(0).begin());
      EXPECT_TRUE(server_->channel().send(*reply, header, deadline()).ok());
    });
    const auto message = runner_->channel().prepare(sizes, deadline()).value();
    for (std::size_t i = 0; i < kBytes; ++i) message->tensor(0)[i] = byte_at(i);
    EXPECT_TRUE(runner_->channel().send(*message, header, deadline()).ok());
    const auto reply = runner_->channel().receive(accept_all, deadline());
    peer.join();
    ASSERT_TRUE(reply.ok()) << reply.status().to_string();
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < kBytes; ++i) wrong += (*reply)->tensor(0)[i] != byte_at(i);
    EXPECT_EQ(wrong, 0U);
  }

  PeerLife life_;
  Welcome welcome_;
  Security servers_;
  Security alices_;
  std::atomic<std::size_t> visits_ = 0;
  std::unique_ptr<SessionChannel> server_;
  std::unique_ptr<SessionChannel> runner_;
};

TEST_P(DataSockets, all_come_by_one_door_and_carry_what_crosses) {
  const Status accepted =
      accept([&](const std::string& door, std::size_t visit) { knock(door, visit); });
  ASSERT_TRUE(accepted.ok()) << accepted.to_string();
  expect_it_works();
}

TEST_P(DataSockets, the_next_door_lets_all_in_again_after_a_stranger_among_them) {
  const std::string& token = welcome_.token;
  const Status accepted = accept([&](const std::string& door, std::size_t visit) {
    if (visit == 1) {
      show(door, {token, std::string(token.size(), '0') + "1"});
    } else if (visit == 2) {  // the same one twice
      show(door, {token, token + "2", token + "2"});
    } else if (visit == 3) {  // one that there is not
      show(door, {token + "3"});
    } else {
      knock(door, visit);
    }
  });
  ASSERT_TRUE(accepted.ok()) << accepted.to_string();
  EXPECT_GE(visits_, 4U);
  expect_it_works();
}

TEST_P(DataSockets, may_come_in_any_order) {
  const std::string& token = welcome_.token;
  const Status accepted = accept([&](const std::string& door, std::size_t) {
    show(door, {token + "2", token, token + "1"});
  });
  EXPECT_TRUE(accepted.ok()) << accepted.to_string();
}

TEST_P(DataSockets, who_comes_with_one_too_few_gets_no_session) {
  const std::string& token = welcome_.token;
  const Status accepted = accept(
      [&](const std::string& door, std::size_t) {
        show(door, {token, token + "1"});
      },
      std::chrono::milliseconds(1500));
  EXPECT_EQ(accepted.code(), StatusCode::kUnavailable) << accepted.to_string();
  EXPECT_EQ(accepted.message(), "the client never attached to its session");
}

TEST_P(DataSockets, who_connects_too_often_is_let_in_as_often_as_was_agreed) {
  const Status accepted = accept([&](const std::string& door, std::size_t visit) {
    knock(door, visit);
    // Too late, or sent away: the door closes.
    const auto more = connect_data(parse_endpoint(door).value());
    if (!more.ok()) return;
    char byte = 0;
    for (const Deadline end = Deadline::after(kPatience); !end.expired();) {
      const ssize_t got = ::recv(more->get(), &byte, 1, MSG_DONTWAIT);
      if (got == 0 || (got < 0 && errno != EAGAIN)) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ADD_FAILURE() << "a fourth connection was let in";
  });
  ASSERT_TRUE(accepted.ok()) << accepted.to_string();
  expect_it_works();
}

TEST_P(DataSockets, come_from_far_away_all_the_same) {
  welcome_.capabilities = capabilities_of(4);
  // Each of them is 0.6 s from its connection to its token with keys, of the server's one second.
  attach_runner();
  std::vector<std::unique_ptr<LongWay>> ways;
  const Status accepted = accept([&](const std::string& door, std::size_t visit) {
    ways.push_back(std::make_unique<LongWay>(door, std::chrono::milliseconds(150)));
    ASSERT_TRUE(runner_->connect(ways.back()->endpoint()).ok());
    while (visits_ == visit) {
      (void)runner_->lost();  // goes on showing the tokens
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  EXPECT_TRUE(accepted.ok()) << accepted.to_string();
}

TEST_P(DataSockets, a_runner_that_has_not_connected_them_all_has_no_channel) {
  attach_runner();
  EXPECT_TRUE(runner_->lost());
  EXPECT_EQ(runner_->open().code(), StatusCode::kProtocolError);
}

INSTANTIATE_TEST_SUITE_P(PlainAndWithKeys, DataSockets, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& each) {
                           return each.param ? "WithKeys" : "Plain";
                         });

TEST(DataSocketCount, is_one_over_ipc_and_where_nobody_knows_of_more) {
  const Endpoint ipc = parse_endpoint("ipc:///tmp/x").value();
  const Endpoint here = parse_endpoint("tcp://127.0.0.1:1").value();
  const Endpoint there = parse_endpoint("tcp://192.0.2.1:1").value();
  EXPECT_EQ(data_sockets_for(4, ipc), 1U);
  EXPECT_EQ(data_sockets_for(4, here), 4U);
  EXPECT_EQ(data_sockets_for(0, here), 1U);
  EXPECT_GE(data_sockets_for(0, there), 1U);
  EXPECT_LE(data_sockets_for(0, there), 4U);
  EXPECT_EQ(data_sockets_in(Hello{}.capabilities), 1U);
  for (std::size_t count = 1; count <= limits::kMaxDataSockets; ++count) {
    EXPECT_EQ(data_sockets_in(capabilities_of(count)), count);
    // Bits of a later release.
    EXPECT_EQ(data_sockets_in(capabilities_of(count) | 0xfff8), count);
  }
}

}  // namespace
}  // namespace airlock
