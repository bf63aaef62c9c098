// ClientSession::connect() against nobody, and against a hand-made server that lies.

#include <gtest/gtest.h>

#include <functional>
#include <thread>
#include <vector>

#include "proto/handshake.h"
#include "runtime/channel/zmq_socket.h"
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
    welcome.data_endpoint = "ipc://" + directory_.file("ctl.00000000");
    welcome.has_ring = true;
    welcome.geometry = {8, 65536};
    welcome.request_segment = "airlock-0-none-req";
    welcome.reply_segment = "airlock-0-none-rep";
    welcome.dims = model_.config().dims;
    welcome.digest = model_.digest().value();
    welcome.device = "cpu";
    welcome.config_bytes = 10;
    return welcome;
  }
  /// Answers the first hello with `frame` and stays until the client is through.
  Status connect_to(const Frame& frame, const ConnectOptions& options) {
    ZmqSocketOptions socket_options;
    socket_options.monitor = false;
    ZmqSocket socket = ZmqSocket::create(*context_, ZmqSocketType::kRouter, socket_options).value();
    EXPECT_TRUE(socket.bind(options.endpoint).ok());
    std::thread server([&] {
      auto hello = socket.receive(Deadline::after(std::chrono::seconds(60)));
      ASSERT_TRUE(hello.ok());
      const std::vector<std::span<const std::byte>> parts{(*hello)[0], frame};
      (void)socket.send(parts, Deadline::after(std::chrono::seconds(60)));
    });
    auto session = ClientSession::connect(options);
    server.join();
    return session.status();
  }
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
  std::unique_ptr<ZmqContext> context_ = ZmqContext::create().value();
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
  ZmqSocketOptions options;
  options.monitor = false;
  ZmqSocket socket = ZmqSocket::create(*context_, ZmqSocketType::kRouter, options).value();
  ASSERT_TRUE(socket.bind(client_options().endpoint).ok());
  EXPECT_EQ(ClientSession::connect(client_options(std::chrono::milliseconds(300))).status().code(),
            StatusCode::kUnavailable);
}

TEST_F(HostileServer, refuses_junk_instead_of_a_welcome) {
  for (const std::size_t size : {0U, 5U, 13U, 4000U}) {
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
  for (const char* claimed : {"ipc:///etc/ctl.00000000", "ipc:///tmp/elsewhere/ctl",
                              "tcp://127.0.0.1:1", "ipc://relative", "tcp://evil.example:80"}) {
    expect_refused([&](Welcome& welcome) { welcome.data_endpoint = claimed; },
                   StatusCode::kProtocolError, "endpoint");
  }
}

TEST_F(HostileServer, refuses_a_data_endpoint_that_climbs_out_of_the_directory) {
  expect_refused(
      [&](Welcome& welcome) { welcome.data_endpoint = "ipc://" + directory_.file("../etc/ctl"); },
      StatusCode::kProtocolError, "endpoint");
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

TEST_F(HostileServer, finds_no_segment_behind_a_lie) {
  const Status status = connect_to(encode_control(good_welcome()), client_options());
  EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.to_string();
}

TEST_F(HostileServer, finds_no_data_socket_behind_a_lie) {
  Welcome welcome = good_welcome();
  welcome.has_ring = false;
  welcome.request_segment.clear();
  welcome.reply_segment.clear();
  const Status status =
      connect_to(encode_control(welcome), client_options(std::chrono::milliseconds(500)));
  EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.to_string();
}

}  // namespace
}  // namespace airlock::testing
