#include <gtest/gtest.h>
#include <sys/socket.h>

#include <string>
#include <thread>
#include <vector>

#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/session_channel.h"
#include "runtime/secure/tls.h"

namespace airlock {
namespace {

constexpr std::chrono::seconds kPatience{30};

/// Connects, says `words`, and goes only once the server has closed.
void shout(const std::string& endpoint, std::string_view words) {
  UniqueFd fd = connect_data(parse_endpoint(endpoint).value()).value();
  (void)::send(fd.get(), words.data(), words.size(), MSG_NOSIGNAL);
}

TEST(DoorWithKeys, opens_again_after_strangers_whatever_they_say) {
  const SecretKey own = SecretKey::make("server").value();
  const SecretKey alice = SecretKey::make("alice").value();
  const SecretKey mallory = SecretKey::make("mallory").value();
  const auto servers = make_tls(own, {{alice.public_key()}, "clients"}).value();
  const auto alices = make_tls(alice, {{own.public_key()}, "server.pub"}).value();
  const auto mallorys = make_tls(mallory, {{own.public_key()}, "server.pub"}).value();
  PeerLife life;
  Welcome welcome;
  ASSERT_TRUE(name_session(welcome).ok());
  welcome.path_limit = limits::kDefaultSlotBytes;
  const auto channel =
      SessionChannel::offer(welcome, SegmentKind::kSealed, life, nullptr, servers.get()).value();
  std::vector<std::thread> guests;
  std::vector<std::string> doors;
  std::unique_ptr<SessionChannel> runner;
  const auto announce = [&](const std::string& endpoint) {
    doors.push_back(endpoint);
    guests.emplace_back([&, endpoint, visit = doors.size()] {
      if (visit == 1) {  // a key that is not listed
        UniqueFd fd = connect_data(parse_endpoint(endpoint).value()).value();
        SocketStream stream =
            SocketStream::open(std::move(fd), mallorys.get(), StreamRole::kClient).value();
        EXPECT_EQ(stream.shake_hands(Deadline::after(kPatience)).code(), StatusCode::kMismatch);
      } else if (visit == 2) {  // no TLS
        shout(endpoint, "let me in, this is urgent");
      } else if (visit == 3) {  // the alert of who finds another key
        shout(endpoint, std::string("\x15\x03\x03\x00\x02\x02\x2a", 7));
      } else {
        runner = SessionChannel::attach(welcome, {}, life, alices.get()).value();
        for (const Deadline end = Deadline::after(kPatience); !end.expired();) {
          ASSERT_TRUE(runner->connect(endpoint).ok());
          if (!runner->lost()) return;
        }
      }
    });
  };
  const Endpoint control{Endpoint::Kind::kTcp, {}, "127.0.0.1", "1"};
  const Status accepted = channel->accept(control, announce, Deadline::after(kPatience));
  for (std::thread& guest : guests) guest.join();
  EXPECT_TRUE(accepted.ok()) << accepted.to_string();
  EXPECT_EQ(doors.size(), 4U);
}

TEST(DoorWithKeys, of_another_server_is_said) {
  const SecretKey own = SecretKey::make("server").value();
  const SecretKey alice = SecretKey::make("alice").value();
  const SecretKey other = SecretKey::make("other").value();
  const auto servers = make_tls(other, {{alice.public_key()}, "clients"}).value();
  const auto alices = make_tls(alice, {{own.public_key()}, "server.pub"}).value();
  PeerLife life;
  Welcome welcome;
  ASSERT_TRUE(name_session(welcome).ok());
  welcome.path_limit = limits::kDefaultSlotBytes;
  const auto channel =
      SessionChannel::offer(welcome, SegmentKind::kSealed, life, nullptr, servers.get()).value();
  std::thread guest;
  Status connected;
  const auto announce = [&](const std::string& endpoint) {
    if (guest.joinable()) return;
    guest = std::thread([&, endpoint] {
      const auto runner = SessionChannel::attach(welcome, {}, life, alices.get()).value();
      connected = runner->connect(endpoint);
      life.end({StatusCode::kUnavailable, "the client has gone"});
    });
  };
  const Endpoint control{Endpoint::Kind::kTcp, {}, "127.0.0.1", "1"};
  EXPECT_FALSE(channel->accept(control, announce, Deadline::after(kPatience)).ok());
  guest.join();
  EXPECT_EQ(connected.code(), StatusCode::kMismatch) << connected.to_string();
}

}  // namespace
}  // namespace airlock
