#include <gtest/gtest.h>
#include <sys/socket.h>

#include <functional>
#include <memory>
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

/// A session at the server, which waits for its runner; `guest` is a thread's body, called with
/// each door that is announced and its number, from 1.
class DoorWithKeys : public ::testing::Test {
 protected:
  using Security = std::shared_ptr<const StreamSecurity>;
  static Security knows(const SecretKey& own, const SecretKey& other) {
    return make_tls(own, {{other.public_key()}, "known"}).value();
  }
  Status accept(const Security& servers,
                const std::function<void(const std::string& door, std::size_t visit)>& guest) {
    CHECK(name_session(welcome_).ok());
    welcome_.path_limit = limits::kDefaultSlotBytes;
    const auto channel =
        SessionChannel::offer(welcome_, SegmentKind::kSealed, life_, nullptr, servers.get())
            .value();
    std::vector<std::thread> guests;
    const auto announce = [&](const std::string& door) {
      guests.emplace_back([&, door, visit = ++visits_] { guest(door, visit); });
    };
    const Endpoint control{Endpoint::Kind::kTcp, {}, "127.0.0.1", "1"};
    const Status accepted = channel->accept(control, announce, Deadline::after(kPatience));
    for (std::thread& each : guests) each.join();
    return accepted;
  }
  std::unique_ptr<SessionChannel> runner(const Security& security) {
    return SessionChannel::attach(welcome_, {}, life_, security.get()).value();
  }

  const SecretKey own_ = SecretKey::make("server").value();
  const SecretKey alice_ = SecretKey::make("alice").value();
  const SecretKey mallory_ = SecretKey::make("mallory").value();
  PeerLife life_;
  Welcome welcome_;
  std::size_t visits_ = 0;
};

TEST_F(DoorWithKeys, opens_again_after_strangers_whatever_they_say) {
  const Security alices = knows(alice_, own_);
  const Security mallorys = knows(mallory_, own_);
  std::unique_ptr<SessionChannel> honest;
  const Status accepted =
      accept(knows(own_, alice_), [&](const std::string& door, std::size_t visit) {
        if (visit == 1) {  // a key that is not listed
          UniqueFd fd = connect_data(parse_endpoint(door).value()).value();
          SocketStream stream =
              SocketStream::open(std::move(fd), mallorys.get(), StreamRole::kClient).value();
          EXPECT_EQ(stream.shake_hands(Deadline::after(kPatience)).code(), StatusCode::kMismatch);
        } else if (visit == 2) {  // no TLS
          shout(door, "let me in, this is urgent");
        } else if (visit == 3) {  // an alert before anything else
          shout(door, std::string("\x15\x03\x03\x00\x02\x02\x2a", 7));
        } else {
          honest = runner(alices);
          for (const Deadline end = Deadline::after(kPatience); honest->lost() && !end.expired();)
            ASSERT_TRUE(honest->connect(door).ok());
        }
      });
  EXPECT_TRUE(accepted.ok()) << accepted.to_string();
  EXPECT_EQ(visits_, 4U);
}

TEST_F(DoorWithKeys, of_another_server_is_said) {
  const Security alices = knows(alice_, own_);
  Status connected;
  const Status accepted =
      accept(knows(mallory_, alice_), [&](const std::string& door, std::size_t visit) {
        if (visit > 1) return;
        connected = runner(alices)->connect(door);
        life_.end({StatusCode::kUnavailable, "the client has gone"});
      });
  EXPECT_FALSE(accepted.ok());
  EXPECT_EQ(connected.code(), StatusCode::kMismatch) << connected.to_string();
}

}  // namespace
}  // namespace airlock
