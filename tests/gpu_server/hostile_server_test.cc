// ClientSession::connect() against nobody, and against a hand-made server that lies.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "proto/handshake.h"
#include "runtime/channel/zmtp_socket.h"
#include "runtime/rpc/control_connection.h"
#include "runtime/rpc/data_door.h"
#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/session_channel.h"
#include "shm/ring_memory.h"
#include "tests/gpu_server/server_rig.h"

namespace airlock::testing {
namespace {

using Frame = std::vector<std::byte>;

class HostileServer : public ::testing::Test {
 protected:
  ConnectOptions client_options(
      std::chrono::milliseconds timeout = std::chrono::seconds(20)) const {
    ConnectOptions options;
    options.endpoint = "ipc://" + directory_.file("ctl");
    options.timeout = timeout;
    return options;
  }
  Welcome good_welcome() const {
    Welcome welcome;
    welcome.epoch = 5;
    welcome.token = std::string(32, 'a');
    welcome.has_ring = true;
    welcome.geometry = {8, 65536};
    welcome.path_limit = 65536;
    welcome.dims = model_.config().dims;
    welcome.digest = model_.digest().value();
    welcome.device = "cpu";
    welcome.config_bytes = 10;
    return welcome;
  }
  /// Answers the first hello with `script` and stays until the client is through.
  Status connect_to(const std::function<void(ControlConnection&)>& script,
                    const ConnectOptions& options) {
    ControlListener listener =
        ControlListener::listen(parse_endpoint(options.endpoint).value()).value();
    std::thread server([&] {
      auto client = listener.accept();
      while (!client) {
        std::this_thread::yield();
        client = listener.accept();
      }
      auto hello = client->receive();
      while (hello.ok() && !*hello) {
        std::this_thread::yield();
        hello = client->receive();
      }
      ASSERT_TRUE(hello.ok());
      script(*client);
      while (hello.ok()) {
        std::this_thread::yield();
        hello = client->receive();
      }
    });
    auto session = ClientSession::connect(options);
    const Status status = session.status();
    session = Status(StatusCode::kInternal, "through");
    server.join();
    return status;
  }
  Status connect_to(const Frame& frame, const ConnectOptions& options) {
    return connect_to(
        [&frame](ControlConnection& client) {
          EXPECT_EQ(::send(client.fd(), frame.data(), frame.size(), MSG_NOSIGNAL),
                    static_cast<ssize_t>(frame.size()));
        },
        options);
  }
  /// Two sealed segments, as a good server makes them.
  struct Rings {
    explicit Rings(const RingGeometry& geometry, std::uint64_t epoch)
        : bytes(ring_segment_bytes(geometry).value()) {
      for (auto& segment : segments) {
        segment = Segment::create_sealed("a test", bytes).value();
        CHECK(format_ring(*segment, geometry, epoch).ok());
      }
    }
    std::array<int, 2> descriptors() const {
      return {segments[0]->descriptor(), segments[1]->descriptor()};
    }
    std::size_t bytes;
    std::array<std::unique_ptr<Segment>, 2> segments;
  };
  void expect_refused(const std::function<void(Welcome&)>& spoil, StatusCode code,
                      const std::string& word) {
    Welcome welcome = good_welcome();
    spoil(welcome);
    const Status status = connect_to(encode_control(welcome), client_options());
    EXPECT_EQ(status.code(), code) << status.to_string();
    EXPECT_NE(status.message().find(word), std::string::npos) << status.to_string();
  }

  MemoryModel model_;
  TempDir directory_;
};

TEST_F(HostileServer, says_that_there_is_no_server) {
  const auto session = ClientSession::connect(client_options(std::chrono::milliseconds(200)));
  ASSERT_FALSE(session.ok());
  EXPECT_EQ(session.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(session.status().message().find(directory_.file("ctl")), std::string::npos);
  EXPECT_NE(session.status().message().find("200 ms"), std::string::npos);
}

TEST_F(HostileServer, says_that_there_is_no_server_on_a_tcp_port) {
  ConnectOptions options = client_options(std::chrono::milliseconds(200));
  options.endpoint = free_tcp_endpoint();
  EXPECT_EQ(ClientSession::connect(options).status().code(), StatusCode::kUnavailable);
}

TEST_F(HostileServer, trusts_no_directory_that_others_can_write) {
  ::chmod(directory_.file("").c_str(), 0755);
  EXPECT_EQ(ClientSession::connect(client_options()).status().code(), StatusCode::kInvalidInput);
}

TEST_F(HostileServer, gives_up_on_a_server_that_never_answers) {
  const ControlListener listener =
      ControlListener::listen(parse_endpoint(client_options().endpoint).value()).value();
  const Status status =
      ClientSession::connect(client_options(std::chrono::milliseconds(300))).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("has not answered within 300 ms"), std::string::npos)
      << status.message();
}

TEST_F(HostileServer, a_client_that_nobody_waits_for_any_more_gives_up) {
  ConnectOptions options = client_options(std::chrono::seconds(60));
  const std::uint64_t start_ns = now_ns();
  const auto cancelled = [&options] {
    std::atomic<bool> stop = false;
    options.cancelled = &stop;
    std::thread stopping([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      stop = true;
    });
    const StatusCode code = ClientSession::connect(options).status().code();
    stopping.join();
    return code;
  };
  EXPECT_EQ(cancelled(), StatusCode::kCancelled) << "without a server";
  const ControlListener listener =
      ControlListener::listen(parse_endpoint(options.endpoint).value()).value();
  EXPECT_EQ(cancelled(), StatusCode::kCancelled) << "with one that never answers";
  EXPECT_LT(now_ns() - start_ns, std::uint64_t{30'000'000'000});
}

TEST_F(HostileServer, waits_for_a_directory_and_a_server_that_come_late) {
  ConnectOptions options = client_options();
  options.endpoint = "ipc://" + directory_.file("late/ctl");
  std::thread server([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    ASSERT_EQ(::mkdir(directory_.file("late").c_str(), 0700), 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    ControlListener listener =
        ControlListener::listen(parse_endpoint(options.endpoint).value()).value();
    auto client = listener.accept();
    while (!client) client = listener.accept();
    EXPECT_TRUE(client->send(Refusal{StatusCode::kMismatch, "at last"}).ok());
    while (client->receive().ok()) std::this_thread::yield();
  });
  const Status status = ClientSession::connect(options).status();
  server.join();
  EXPECT_EQ(status.code(), StatusCode::kMismatch) << status.to_string();
}

TEST_F(HostileServer, refuses_a_program_that_keeps_no_packets_apart) {
  const UniqueFd other(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = directory_.file("ctl");
  std::copy(path.begin(), path.end(), address.sun_path);
  ASSERT_EQ(::bind(other.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(other.get(), 1), 0);
  const Status status = ClientSession::connect(client_options()).status();
  EXPECT_EQ(status.code(), StatusCode::kVersionMismatch) << status.to_string();
}

TEST_F(HostileServer, refuses_junk_instead_of_a_welcome) {
  for (const std::size_t size : {5U, 13U, 4000U, 5000U}) {
    EXPECT_EQ(connect_to(Frame(size, std::byte{0x5a}), client_options()).code(),
              StatusCode::kProtocolError)
        << size;
  }
}

TEST_F(HostileServer, refuses_a_hello_and_a_goodbye_for_an_answer) {
  EXPECT_EQ(connect_to(encode_control(Hello{}), client_options()).code(),
            StatusCode::kProtocolError);
  EXPECT_EQ(connect_to(encode_control(Goodbye{"no"}), client_options()).code(),
            StatusCode::kProtocolError);
}

TEST_F(HostileServer, names_both_versions_of_another_major) {
  Frame frame = encode_control(good_welcome());
  frame[8] = std::byte{77};
  const Status status = connect_to(frame, client_options());
  EXPECT_EQ(status.code(), StatusCode::kVersionMismatch);
  EXPECT_NE(status.message().find("77."), std::string::npos) << status.to_string();
  EXPECT_NE(status.message().find(std::to_string(kProtocolMajor) + "."), std::string::npos)
      << status.to_string();
}

TEST_F(HostileServer, passes_on_a_refusal) {
  const Status status = connect_to(
      encode_control(Refusal{StatusCode::kResourceExhausted, "server full"}), client_options());
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("server full"), std::string::npos);
}

TEST_F(HostileServer, gains_nothing_by_a_refusal_that_says_busy) {
  Frame frame = encode_control(Refusal{StatusCode::kResourceExhausted, "server full"});
  ASSERT_EQ(frame[14], static_cast<std::byte>(StatusCode::kResourceExhausted));
  frame[14] = static_cast<std::byte>(StatusCode::kBusy);
  EXPECT_EQ(connect_to(frame, client_options()).code(), StatusCode::kProtocolError);
}

TEST_F(HostileServer, refuses_a_data_endpoint_of_another_kind_or_place) {
  const std::vector<std::string> claims = {"ipc:///tmp/elsewhere/ctl", "tcp://127.0.0.1:1",
                                           "ipc://relative", "tcp://evil.example:80",
                                           "ipc://" + directory_.file("../etc/ctl")};
  Welcome welcome = good_welcome();
  welcome.has_ring = false;
  for (const std::string& claimed : claims) {
    const Status status = connect_to(
        [&](ControlConnection& client) {
          EXPECT_TRUE(client.send(welcome).ok());
          EXPECT_TRUE(client.send(DataSocket{claimed}).ok());
        },
        client_options());
    EXPECT_EQ(status.code(), StatusCode::kProtocolError) << claimed << ": " << status.to_string();
    EXPECT_NE(status.message().find("endpoint"), std::string::npos) << status.to_string();
  }
}

TEST_F(HostileServer, maps_no_ring_that_is_not_there_or_not_sealed_or_of_another_size) {
  const Welcome welcome = good_welcome();
  const Rings good(welcome.geometry, welcome.epoch);
  const Rings larger({16, 65536}, welcome.epoch);
  const auto with = [&](std::span<const int> descriptors) {
    return connect_to(
        [&](ControlConnection& client) { EXPECT_TRUE(client.send(welcome, descriptors).ok()); },
        client_options());
  };
  const UniqueFd unsealed(::memfd_create("a test", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(unsealed.get(), static_cast<off_t>(good.bytes)), 0);
  const std::array<int, 2> own = good.descriptors();
  for (const std::vector<int>& descriptors : {std::vector<int>{},
                                              {own[0]},
                                              {own[0], unsealed.get()},
                                              {0, 1},
                                              {own[0], larger.descriptors()[0]}}) {
    EXPECT_EQ(with(descriptors).code(), StatusCode::kProtocolError) << descriptors.size();
  }
}

TEST_F(HostileServer, maps_no_gigabytes_that_it_has_not_demanded) {
  Welcome welcome = good_welcome();
  welcome.geometry = {1024, std::uint32_t{64} << 20};
  const Status status = connect_to(encode_control(welcome), client_options());
  EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.to_string();
  EXPECT_NE(status.message().find("--ring-slots"), std::string::npos) << status.to_string();
}

// From Welcome on, whatever else comes or does not come ends in time and says why.
TEST_F(HostileServer, attaches_only_as_the_protocol_goes) {
  Welcome welcome = good_welcome();
  welcome.has_ring = false;
  const auto after_welcome = [&](const std::vector<ControlMessage>& messages) {
    return connect_to(
        [&](ControlConnection& client) {
          EXPECT_TRUE(client.send(welcome).ok());
          for (const ControlMessage& message : messages) EXPECT_TRUE(client.send(message).ok());
        },
        client_options(std::chrono::milliseconds(500)));
  };
  EXPECT_EQ(after_welcome({Attached{}}).code(), StatusCode::kProtocolError);
  EXPECT_EQ(after_welcome({welcome}).code(), StatusCode::kProtocolError);
  EXPECT_EQ(after_welcome({Refusal{StatusCode::kResourceExhausted, "full"}}).code(),
            StatusCode::kResourceExhausted);
  // Who gave up is ours to say.
  EXPECT_EQ(after_welcome({Refusal{StatusCode::kCancelled, "enough"}}).code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(after_welcome({Goodbye{"enough"}}).code(), StatusCode::kUnavailable);
  const Status silent = after_welcome({Sign{}});
  EXPECT_EQ(silent.code(), StatusCode::kUnavailable);
  EXPECT_NE(silent.message().find("no data socket"), std::string::npos) << silent.message();
  const std::string nowhere = "ipc://" + directory_.file("ctl.00000000");
  EXPECT_EQ(after_welcome({DataSocket{nowhere}, Attached{}}).code(), StatusCode::kProtocolError);
  const auto door = DataDoor::open(parse_endpoint(client_options().endpoint).value());
  ASSERT_TRUE(door.ok());
  EXPECT_EQ(after_welcome({DataSocket{door->endpoint()}, Attached{}}).code(),
            StatusCode::kProtocolError);
  const Status unattached = after_welcome({DataSocket{nowhere}});
  EXPECT_EQ(unattached.code(), StatusCode::kUnavailable);
  EXPECT_NE(unattached.message().find(nowhere), std::string::npos) << unattached.message();
}

TEST_F(HostileServer, gives_int8_weights_exactly_where_they_were_asked_for) {
  Welcome welcome = good_welcome();
  welcome.has_ring = false;
  const auto door = DataDoor::open(parse_endpoint(client_options().endpoint).value());
  ASSERT_TRUE(door.ok());
  const auto attached_with = [&](const std::string& digest, ConnectOptions options) {
    const Status status = connect_to(
        [&](ControlConnection& client) {
          EXPECT_TRUE(client.send(welcome).ok());
          EXPECT_TRUE(client.send(DataSocket{door->endpoint()}).ok());
          EXPECT_TRUE(client.send(Attached{{}, digest}).ok());
        },
        options);
    EXPECT_EQ(status.code(), StatusCode::kProtocolError) << status.to_string();
    EXPECT_NE(status.message().find("int8 weights"), std::string::npos) << status.to_string();
  };
  attached_with("ab12", client_options());
  ConnectOptions asking = client_options();
  asking.privacy = Privacy::kOtp;
  asking.int8_weights = Int8Weights::kW8;
  attached_with("", asking);
}

TEST_F(HostileServer, refuses_more_data_sockets_than_were_asked_for) {
  expect_refused([](Welcome& welcome) { welcome.capabilities = capabilities_of(2); },
                 StatusCode::kProtocolError, "data sockets");
}

TEST_F(HostileServer, refuses_an_epoch_of_zero) {
  expect_refused([](Welcome& welcome) { welcome.epoch = 0; }, StatusCode::kProtocolError, "epoch");
}

TEST_F(HostileServer, refuses_a_geometry_outside_the_limits) {
  for (const RingGeometry geometry : {RingGeometry{7, 65536}, RingGeometry{1025, 65536},
                                      RingGeometry{8, 1}, RingGeometry{8, 0x80000000U}}) {
    Welcome welcome = good_welcome();
    welcome.geometry = geometry;
    EXPECT_EQ(connect_to(encode_control(welcome), client_options()).code(),
              StatusCode::kProtocolError);
  }
}

TEST_F(HostileServer, refuses_a_geometry_other_than_demanded) {
  ConnectOptions options = client_options();
  options.ring.slot_count = 16;
  EXPECT_EQ(connect_to(encode_control(good_welcome()), options).code(), StatusCode::kUnavailable);
}

TEST_F(HostileServer, refuses_another_digest_whatever_the_server_accepted) {
  ConnectOptions options = client_options();
  options.digest = std::string(64, '1');
  EXPECT_EQ(connect_to(encode_control(good_welcome()), options).code(), StatusCode::kMismatch);
}

TEST_F(HostileServer, refuses_another_shape_under_the_same_digest) {
  ConnectOptions options = client_options();
  options.digest = model_.digest().value();
  options.dims = model_.config().dims;
  options.dims->layers += 1;
  EXPECT_EQ(connect_to(encode_control(good_welcome()), options).code(), StatusCode::kMismatch);
}

TEST_F(HostileServer, refuses_a_ring_that_was_not_asked_for) {
  ConnectOptions options = client_options();
  options.ring.choice = RingChoice::kOff;
  EXPECT_EQ(connect_to(encode_control(good_welcome()), options).code(), StatusCode::kProtocolError);
}

TEST_F(HostileServer, cannot_hold_up_the_end_of_a_client_by_a_flood_of_signs) {
  Welcome welcome = good_welcome();
  welcome.has_ring = false;
  const PeerLife life;
  const Endpoint endpoint = parse_endpoint(client_options().endpoint).value();
  const Status status = connect_to(
      [&](ControlConnection& client) {
        EXPECT_TRUE(client.send(welcome).ok());
        const auto channel = SessionChannel::offer(welcome, SegmentKind::kSealed, life).value();
        const auto announce = [&](const std::string& at) {
          EXPECT_TRUE(client.send(DataSocket{at}).ok());
        };
        const Deadline deadline = Deadline::after(std::chrono::seconds(20));
        EXPECT_TRUE(channel->accept(endpoint, announce, deadline).ok());
        EXPECT_TRUE(channel->open().ok());
        EXPECT_TRUE(client.send(Attached{}).ok());
        // Until the client has ended.
        while (client.send(Sign{}).code() != StatusCode::kUnavailable) {
        }
      },
      client_options());
  EXPECT_TRUE(status.ok()) << status.to_string();
}

TEST_F(HostileServer, leases_no_more_of_a_pool_than_was_asked_for) {
  constexpr std::uint64_t kSlot = 65536;
  const auto region = PoolRegion::create({kSlot, {{8, 8, 0}}, 0}, PoolCommit::kLazy).value();
  const Endpoint endpoint = parse_endpoint(client_options().endpoint).value();
  const PeerLife life;
  const auto code_of = [&](bool has_pool, const PoolWish& wish, const PoolWish& given,
                           std::uint64_t less) {
    Welcome welcome = good_welcome();
    welcome.has_ring = true;
    welcome.geometry = {8, 65536};
    welcome.has_pool = has_pool;
    ConnectOptions options = client_options();
    options.pool = wish;
    return connect_to(
               [&](ControlConnection& client) {
                 const auto channel =
                     SessionChannel::offer(welcome, SegmentKind::kSealed, life).value();
                 const auto rings = channel->descriptors().value();
                 const int fds[] = {rings[0].get(), rings[1].get()};
                 EXPECT_TRUE(client.send(welcome, fds).ok());
                 const auto announce = [&](const std::string& at) {
                   (void)client.send(DataSocket{at});
                 };
                 (void)channel->accept(endpoint, announce,
                                       Deadline::after(std::chrono::seconds(2)));
                 Attached attached;
                 Status lacking;
                 const auto leased = channel->lease(*region, given, attached, lacking).value();
                 for (PoolExtent& extent : attached.pool) extent.bytes -= less;
                 std::vector<int> memory;
                 for (const UniqueFd& fd : leased) memory.push_back(fd.get());
                 (void)client.send(attached, memory);
                 while (client.send(Sign{}).code() != StatusCode::kUnavailable) {
                 }
               },
               options)
        .code();
  };
  const PoolWish both{{kSlot, kSlot, 0}};
  EXPECT_EQ(code_of(true, both, both, 0), StatusCode::kOk);
  EXPECT_EQ(code_of(true, {{kSlot, 0, 0}}, both, 0), StatusCode::kProtocolError);
  EXPECT_EQ(code_of(true, both, {{2 * kSlot, 0, 0}}, 0), StatusCode::kProtocolError);
  EXPECT_EQ(code_of(true, both, both, 4096), StatusCode::kProtocolError);
  EXPECT_EQ(code_of(false, both, both, 0), StatusCode::kProtocolError);
  EXPECT_EQ(code_of(true, {}, {}, 0), StatusCode::kProtocolError);
}

TEST_F(HostileServer, finds_no_segment_behind_a_lie) {
  Welcome welcome = good_welcome();
  welcome.request_segment = "airlock-0-none-req";
  welcome.reply_segment = "airlock-0-none-rep";
  const Status status = connect_to(encode_control(welcome), client_options());
  EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.to_string();
}

}  // namespace
}  // namespace airlock::testing
