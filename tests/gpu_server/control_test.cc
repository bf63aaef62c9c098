// What else may speak to a server: other versions, junk, the silent, the lazy, and strangers at a
// session's door.

#include "tests/gpu_server/session_rig.h"

namespace airlock::testing {
namespace {

using ControlTest = SessionTest;

TEST_F(ControlTest, refuses_another_major_version_names_both_and_counts_it) {
  start();
  ControlConnection connection = raw_connection();
  std::vector<std::byte> hello = encode_control(Hello{"old", {RingChoice::kOff, 0, 0}, "", 0});
  hello[8] = std::byte{99};
  send_raw(connection, hello);
  auto answer = next_message(connection);
  ASSERT_TRUE(answer.ok()) << answer.status().to_string();
  const auto* refusal = std::get_if<Refusal>(&*answer);
  ASSERT_NE(refusal, nullptr);
  EXPECT_EQ(refusal->code, StatusCode::kVersionMismatch);
  EXPECT_NE(refusal->message.find("99." + std::to_string(kProtocolMinor)), std::string::npos)
      << refusal->message;
  EXPECT_NE(
      refusal->message.find(std::to_string(kProtocolMajor) + "." + std::to_string(kProtocolMinor)),
      std::string::npos);
  EXPECT_EQ(next_message(connection).status().code(), StatusCode::kUnavailable);
  const auto counters = read_counters_file(directory_.file("ctl.stats"));
  ASSERT_TRUE(counters.ok()) << counters.status().to_string();
  EXPECT_EQ(counters->sessions_refused, 1U);
}

// Each of them is turned away, and nobody else notices.
TEST_F(ControlTest, serves_on_through_junk_on_the_control_socket) {
  start();
  auto before = connect();
  ASSERT_NE(before, nullptr);
  std::vector<std::vector<std::byte>> junk;
  for (std::size_t size : {1U, 8U, 12U, 13U, 100U, 5000U, 16384U}) {
    junk.emplace_back(size, std::byte{0xa5});
  }
  for (const ControlMessage& message :
       {ControlMessage(Sign{}), ControlMessage(Goodbye{"of no session"}),
        ControlMessage(Refusal{StatusCode::kInternal, ""}), ControlMessage(Attached{})}) {
    junk.push_back(encode_control(message));
  }
  for (const auto& bytes : junk) {
    ControlConnection stranger = raw_connection();
    send_raw(stranger, bytes);
    const auto answer = next_message(stranger);
    if (answer.ok()) {
      EXPECT_TRUE(std::holds_alternative<Refusal>(*answer));
      EXPECT_FALSE(next_message(stranger).ok());
    }
    EXPECT_TRUE(before->backend().ping(soon()).ok());
  }
  expect_works(*before);
  auto after = connect();
  ASSERT_NE(after, nullptr);
  expect_works(*after);
}

TEST_F(ControlTest, takes_no_descriptors_from_a_client) {
  start();
  ControlConnection connection = raw_connection();
  const int own[] = {0};
  ASSERT_TRUE(connection.send(Hello{"generous", {RingChoice::kOff, 0, 0}, "", 0}, own).ok());
  EXPECT_EQ(next_message(connection).status().code(), StatusCode::kUnavailable);
  auto session = connect();
  ASSERT_NE(session, nullptr);
}

TEST_F(ControlTest, drops_connections_that_say_nothing_and_serves_on_meanwhile) {
  start();
  auto before = connect();
  ASSERT_NE(before, nullptr);
  std::vector<ControlConnection> silent;
  for (int i = 0; i < 200; ++i) silent.push_back(raw_connection());
  expect_works(*before);
  auto after = connect();
  ASSERT_NE(after, nullptr);
  expect_works(*after);
  for (ControlConnection& connection : silent) {
    EXPECT_EQ(next_message(connection).status().code(), StatusCode::kUnavailable);
  }
}

TEST_F(ControlTest, ends_a_session_at_a_second_hello) {
  start();
  ControlConnection connection = raw_connection();
  const std::vector<std::byte> hello =
      encode_control(Hello{"twice", {RingChoice::kOff, 0, 0}, "", 0});
  send_raw(connection, hello);
  auto answer = next_message(connection);
  ASSERT_TRUE(answer.ok()) << answer.status().to_string();
  ASSERT_TRUE(std::holds_alternative<Welcome>(*answer));
  send_raw(connection, hello);
  Status end;
  while (end.ok()) end = next_message(connection).status();
  EXPECT_EQ(end.code(), StatusCode::kUnavailable) << end.to_string();
}

// A place is for who attaches.
TEST_F(ControlTest, gives_no_place_to_clients_that_never_attach) {
  options_.max_clients = 1;
  start();
  std::vector<ControlConnection> lazy;
  for (int i = 0; i < 5; ++i) {
    lazy.push_back(raw_connection());
    ASSERT_TRUE(lazy.back().send(Hello{"lazy", {RingChoice::kOn, 0, 0}, "", 0}).ok());
    auto answer = next_message(lazy.back());
    ASSERT_TRUE(answer.ok()) << i << answer.status().to_string();
    ASSERT_TRUE(std::holds_alternative<Welcome>(*answer)) << i;
  }
  auto session = connect();
  ASSERT_NE(session, nullptr);
  expect_works(*session);
  // The others were displaced, the last one too: there is one place beside the one that is taken.
  for (ControlConnection& connection : lazy) {
    Status end;
    while (end.ok()) end = next_message(connection).status();
    EXPECT_EQ(end.code(), StatusCode::kUnavailable) << end.to_string();
  }
  EXPECT_EQ(directory_.file_count(), 3U);  // the control socket, its lock and the counters file
}

// Whoever is first at the data socket without the token loses it, and the runner is told of
// another.
TEST_F(ControlTest, finds_its_runner_behind_a_stranger_on_the_data_socket) {
  for (const std::string& endpoint : {options_.endpoint, free_tcp_endpoint()}) {
    options_.endpoint = endpoint;
    start();
    ControlConnection control = raw_connection();
    ASSERT_TRUE(control.send(Hello{"raw", {RingChoice::kOff, 0, 0}, "", 0}).ok());
    const auto first = next_message(control);
    ASSERT_TRUE(first.ok() && std::holds_alternative<Welcome>(*first));
    const Welcome welcome = std::get<Welcome>(*first);
    std::vector<std::string> announced;
    const auto knock = [](const std::string& at) {
      return connect_data(parse_endpoint(at).value());
    };
    std::vector<ZmtpSocket> sockets;
    for (int i = 0; i < 3; ++i) {
      const auto message = next_message(control);
      ASSERT_TRUE(message.ok() && std::holds_alternative<DataSocket>(*message)) << i;
      announced.push_back(std::get<DataSocket>(*message).endpoint);
      auto connection = knock(announced.back());
      ASSERT_TRUE(connection.ok()) << connection.status().to_string();
      sockets.emplace_back(SocketStream(std::move(connection).value()));
      const std::string token = i < 2 ? std::string(welcome.token.size(), 'f') : welcome.token;
      ASSERT_TRUE(sockets.back().send(std::as_bytes(std::span(token)), soon()).ok());
    }
    const auto last = next_message(control);
    ASSERT_TRUE(last.ok()) << last.status().to_string();
    EXPECT_TRUE(std::holds_alternative<Attached>(*last));
    EXPECT_NE(announced[0], announced[1]);
    EXPECT_NE(announced[1], announced[2]);
    // Nobody else gets in any more.
    EXPECT_EQ(knock(announced[2]).status().code(), StatusCode::kUnavailable);
    EXPECT_TRUE(server_->stop().ok());
  }
}

}  // namespace
}  // namespace airlock::testing
