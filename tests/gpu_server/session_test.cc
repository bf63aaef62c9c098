// ClientSession against a whole server in this process: control socket, data socket, rings, signs
// of life.

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <variant>
#include <vector>

#include "proto/handshake.h"
#include "runtime/channel/zmq_socket.h"
#include "runtime/rpc/control_connection.h"
#include "runtime/stats/counters_reader.h"
#include "shm/segment.h"
#include "tests/gpu_server/server_rig.h"
#include "tests/support/reference_ops.h"

namespace airlock::testing {
namespace {

Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }

/// As it is, to the bytes.
void send_raw(const ControlConnection& connection, std::span<const std::byte> bytes) {
  EXPECT_EQ(::send(connection.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
}
/// The next message that is no sign of life.
Result<ControlMessage> next_message(ControlConnection& connection) {
  const Deadline give_up = soon();
  while (!give_up.expired()) {
    ASSIGN_OR_RETURN(const auto frame, connection.receive());
    if (!frame) {
      std::this_thread::yield();
      continue;
    }
    ASSIGN_OR_RETURN(ControlMessage message, decode_control(frame->bytes));
    if (!std::holds_alternative<Sign>(message)) return message;
  }
  return Status(StatusCode::kDeadlineExceeded, "no message came");
}

/// Segments of this session that still have a name.
std::size_t segment_count(std::uint64_t epoch) {
  std::size_t count = 0;
  for (const SegmentDirection direction : {SegmentDirection::kRequest, SegmentDirection::kReply}) {
    const std::string name = make_segment_name(::geteuid(), epoch, direction);
    count += std::filesystem::exists("/dev/shm/" + name) ? 1 : 0;
  }
  return count;
}

class SessionTest : public ::testing::Test {
 protected:
  SessionTest() {
    options_.endpoint = "ipc://" + directory_.file("ctl");
    options_.ring.slot_count = 8;
    options_.ring.slot_bytes = 65536;
    options_.stats_json = stats_directory_.file("stats.json");
  }
  void start() { server_ = std::make_unique<RunningServer>(options_, model_); }
  ConnectOptions client_options() const {
    ConnectOptions options;
    options.endpoint = options_.endpoint;
    options.timeout = std::chrono::seconds(20);
    options.digest = model_.digest().value();
    options.dims = model_.config().dims;
    return options;
  }
  std::unique_ptr<ClientSession> connect(const ConnectOptions& options) const {
    auto session = ClientSession::connect(options);
    EXPECT_TRUE(session.ok()) << session.status().to_string();
    return session.ok() ? std::move(session).value() : nullptr;
  }
  std::unique_ptr<ClientSession> connect() const { return connect(client_options()); }
  void expect_refused(const ConnectOptions& options, StatusCode code,
                      const std::string& word) const {
    auto session = ClientSession::connect(options);
    ASSERT_FALSE(session.ok());
    EXPECT_EQ(session.status().code(), code) << session.status().to_string();
    EXPECT_NE(session.status().message().find(word), std::string::npos)
        << session.status().to_string();
  }
  /// q of `rows` random rows, compared with the reference.
  Status multiply(Backend& backend, std::int64_t rows) const {
    const Tensor x = random_tensor({DType::kF32, Shape{rows, model_.config().dims.hidden}}, 9);
    const OpSpec spec = linear_spec({{WeightKind::kQ, 0}}, x.desc(), DType::kF32);
    ASSIGN_OR_RETURN(auto pending, backend.prepare(spec, soon()));
    std::memcpy(pending->input(0).data, x.view().data, x.desc().bytes());
    RETURN_IF_ERROR(pending->submit());
    RETURN_IF_ERROR(pending->wait());
    const std::array<TensorView, 1> inputs{x.view()};
    double worst = 0;
    EXPECT_EQ(count_outside_tolerance(pending->result(0),
                                      reference_op(model_, DType::kF32, spec, inputs)[0], worst),
              0U);
    return {};
  }
  void expect_works(ClientSession& session) const {
    for (const std::int64_t rows : {1, 50, 400}) {  // the last one's tensors are larger than a slot
      const Status status = multiply(session.backend(), rows);
      EXPECT_TRUE(status.ok()) << status.to_string();
    }
  }
  nlohmann::json stop_and_read_stats() {
    EXPECT_TRUE(server_->stop().ok());
    std::ifstream file(options_.stats_json);
    return nlohmann::json::parse(file);
  }
  /// A connection that speaks for itself; the server may still be about to listen.
  ControlConnection raw_connection() const {
    const Endpoint endpoint = parse_endpoint(options_.endpoint).value();
    const Deadline give_up = soon();
    for (;;) {
      auto connection = ControlConnection::connect(endpoint, give_up);
      if (connection.ok() || give_up.expired()) return std::move(connection).value();
      std::this_thread::yield();
    }
  }

  MemoryModel model_;
  TempDir directory_;
  TempDir stats_directory_;
  ServerOptions options_;
  std::unique_ptr<RunningServer> server_;
};

TEST_F(SessionTest, computes_over_rings) {
  start();
  auto session = connect();
  ASSERT_NE(session, nullptr);
  expect_works(*session);
  EXPECT_GT(session->transport_stats()[Path::kRing].sent.messages.load(), 0U);
  EXPECT_GT(session->transport_stats()[Path::kZmq].sent.tensors.load(), 0U);
  EXPECT_EQ(session->backend().info().dims, model_.config().dims);
  EXPECT_EQ(session->backend().info().digest, model_.digest().value());
}

TEST_F(SessionTest, computes_without_a_ring_where_the_client_wants_none) {
  start();
  ConnectOptions options = client_options();
  options.ring.choice = RingChoice::kOff;
  auto session = connect(options);
  ASSERT_NE(session, nullptr);
  expect_works(*session);
  EXPECT_EQ(session->transport_stats()[Path::kRing].sent.messages.load(), 0U);
}

TEST_F(SessionTest, computes_without_a_ring_where_the_server_has_none) {
  options_.ring.choice = RingChoice::kOff;
  start();
  auto session = connect();
  ASSERT_NE(session, nullptr);
  expect_works(*session);
  EXPECT_EQ(session->transport_stats()[Path::kRing].sent.messages.load(), 0U);
}

TEST_F(SessionTest, refuses_a_session_without_the_ring_it_demands) {
  options_.ring.choice = RingChoice::kOff;
  start();
  ConnectOptions options = client_options();
  options.ring.choice = RingChoice::kOn;
  expect_refused(options, StatusCode::kUnavailable, "--ring");
}

TEST_F(SessionTest, computes_over_tcp_and_with_a_ring_beside_it) {
  options_.endpoint = free_tcp_endpoint();
  options_.ring.choice = RingChoice::kOn;
  start();
  {
    auto plain = connect();
    ASSERT_NE(plain, nullptr);
    expect_works(*plain);
    EXPECT_EQ(plain->transport_stats()[Path::kRing].sent.messages.load(), 0U);
  }
  ConnectOptions options = client_options();
  options.ring.choice = RingChoice::kOn;
  auto session = connect(options);
  ASSERT_NE(session, nullptr);
  expect_works(*session);
  EXPECT_GT(session->transport_stats()[Path::kRing].sent.messages.load(), 0U);
}

TEST_F(SessionTest, gives_config_and_norms_to_a_client_without_a_model) {
  start();
  ConnectOptions options = client_options();
  options.digest.clear();
  options.dims.reset();
  auto session = connect(options);
  ASSERT_NE(session, nullptr);
  std::string config;
  Tensor norms;
  ASSERT_TRUE(session->backend().init(session->config_bytes(), config, norms, soon()).ok());
  EXPECT_EQ(config, R"({"model_type":"llama"})");
  const Tensor want = read_norms(model_).value();
  ASSERT_EQ(norms.desc(), want.desc());
  EXPECT_EQ(std::memcmp(norms.view().data, want.view().data, want.desc().bytes()), 0);
}

TEST_F(SessionTest, leaves_no_file_of_a_session_that_is_attached) {
  start();
  auto session = connect();
  ASSERT_NE(session, nullptr);
  ASSERT_TRUE(session->backend().ping(soon()).ok());
  EXPECT_EQ(directory_.file_count(), 3U);  // the control socket, its lock and the counters file
}

// Named segments exist where the control connection passes no descriptors.
TEST_F(SessionTest, leaves_no_segment_of_a_tcp_session_that_is_attached) {
  options_.endpoint = free_tcp_endpoint();
  options_.ring.choice = RingChoice::kOn;
  start();
  ConnectOptions options = client_options();
  options.ring.choice = RingChoice::kOn;
  auto session = connect(options);
  ASSERT_NE(session, nullptr);
  EXPECT_EQ(segment_count(session->epoch()), 0U);
}

TEST_F(SessionTest, leaves_no_file_of_the_server) {
  start();
  { ASSERT_NE(connect(), nullptr); }
  EXPECT_TRUE(server_->stop().ok());
  EXPECT_EQ(directory_.file_count(), 0U);
}

TEST_F(SessionTest, refuses_a_client_when_it_is_full_and_takes_it_later) {
  options_.max_clients = 1;
  start();
  auto first = connect();
  ASSERT_NE(first, nullptr);
  expect_refused(client_options(), StatusCode::kResourceExhausted, "1 of 1");
  first->close();
  const Deadline give_up = soon();
  for (;;) {  // the server notices the goodbye in its own time
    auto second = ClientSession::connect(client_options());
    if (second.ok()) break;
    ASSERT_EQ(second.status().code(), StatusCode::kResourceExhausted)
        << second.status().to_string();
    ASSERT_FALSE(give_up.expired());
  }
}

TEST_F(SessionTest, refuses_another_models_digest) {
  start();
  ConnectOptions options = client_options();
  options.digest = std::string(64, '7');
  expect_refused(options, StatusCode::kMismatch, options.digest);
}

TEST_F(SessionTest, refuses_a_model_of_another_shape) {
  start();
  ConnectOptions options = client_options();
  options.dims->vocab += 1;
  expect_refused(options, StatusCode::kMismatch, "shape");
}

TEST_F(SessionTest, takes_the_geometry_that_is_demanded_or_refuses) {
  start();
  ConnectOptions options = client_options();
  options.ring.slot_count = 8;
  options.ring.slot_bytes = 65536;
  { ASSERT_NE(connect(options), nullptr); }
  options.ring.slot_count = 16;
  expect_refused(options, StatusCode::kUnavailable, "16");
  options.ring.slot_count = 0;
  options.ring.slot_bytes = 131072;
  expect_refused(options, StatusCode::kUnavailable, "131072");
}

TEST_F(SessionTest, refuses_another_major_version_names_both_and_counts_it) {
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

TEST_F(SessionTest, names_the_clients_program) {
  start();
  ConnectOptions options = client_options();
  options.client = "a tool";
  const auto session = connect(options);
  const auto counters = read_counters_file(directory_.file("ctl.stats"));
  ASSERT_TRUE(counters.ok()) << counters.status().to_string();
  ASSERT_EQ(counters->report.sessions.size(), 1U);
  EXPECT_EQ(counters->report.sessions[0].client, "a tool pid " + std::to_string(::getpid()));
}

TEST_F(SessionTest, says_that_no_descriptor_is_left) {
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &old), 0);
  ServerOptions second = options_;
  second.endpoint = "ipc://" + directory_.file("second");
  rlimit none = old;
  none.rlim_cur = 0;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto session = ClientSession::connect(client_options());
  const auto server = Server::bind(second);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &old), 0);
  EXPECT_EQ(session.status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(server.status().code(), StatusCode::kResourceExhausted);
}

// Each of them is turned away, and nobody else notices.
TEST_F(SessionTest, serves_on_through_junk_on_the_control_socket) {
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

TEST_F(SessionTest, takes_no_descriptors_from_a_client) {
  start();
  ControlConnection connection = raw_connection();
  const int own[] = {0};
  ASSERT_TRUE(connection.send(Hello{"generous", {RingChoice::kOff, 0, 0}, "", 0}, own).ok());
  EXPECT_EQ(next_message(connection).status().code(), StatusCode::kUnavailable);
  auto session = connect();
  ASSERT_NE(session, nullptr);
}

TEST_F(SessionTest, drops_connections_that_say_nothing_and_serves_on_meanwhile) {
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

TEST_F(SessionTest, ends_a_session_at_a_second_hello) {
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
TEST_F(SessionTest, gives_no_place_to_clients_that_never_attach) {
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
TEST_F(SessionTest, finds_its_runner_behind_a_stranger_on_the_data_socket) {
  for (const std::string& endpoint : {options_.endpoint, free_tcp_endpoint()}) {
    options_.endpoint = endpoint;
    start();
    ControlConnection control = raw_connection();
    ASSERT_TRUE(control.send(Hello{"raw", {RingChoice::kOff, 0, 0}, "", 0}).ok());
    const auto first = next_message(control);
    ASSERT_TRUE(first.ok() && std::holds_alternative<Welcome>(*first));
    const Welcome welcome = std::get<Welcome>(*first);
    std::vector<std::string> announced;
    std::unique_ptr<ZmqContext> context = ZmqContext::create().value();
    std::vector<ZmqSocket> sockets;
    for (int i = 0; i < 3; ++i) {
      const auto message = next_message(control);
      ASSERT_TRUE(message.ok() && std::holds_alternative<DataSocket>(*message)) << i;
      announced.push_back(std::get<DataSocket>(*message).endpoint);
      sockets.push_back(ZmqSocket::create(*context).value());
      ASSERT_TRUE(sockets.back().connect(announced.back()).ok());
      const std::string token = i < 2 ? std::string(welcome.token.size(), 'f') : welcome.token;
      ASSERT_TRUE(sockets.back().send(std::as_bytes(std::span(token)), soon()).ok());
    }
    const auto last = next_message(control);
    ASSERT_TRUE(last.ok()) << last.status().to_string();
    EXPECT_TRUE(std::holds_alternative<Attached>(*last));
    EXPECT_NE(announced[0], announced[1]);
    EXPECT_NE(announced[1], announced[2]);
    // Nobody else gets in any more.
    ZmqSocket late = ZmqSocket::create(*context).value();
    ASSERT_TRUE(late.connect(announced[2]).ok());
    EXPECT_FALSE(late.connected());
    EXPECT_TRUE(server_->stop().ok());
  }
}

TEST_F(SessionTest, ends_a_session_whose_connection_closes) {
  start();
  auto session = connect();
  ASSERT_NE(session, nullptr);
  ASSERT_TRUE(session->check().ok());
  EXPECT_TRUE(server_->stop().ok());
  // At once, whatever the control thread has come round to.
  EXPECT_EQ(session->check().code(), StatusCode::kUnavailable);
}

TEST_F(SessionTest, serves_two_clients_at_once) {
  start();
  auto a = connect();
  auto b = connect();
  ASSERT_NE(a, nullptr);
  ASSERT_NE(b, nullptr);
  EXPECT_NE(a->epoch(), b->epoch());
  std::thread other([&] {
    for (int i = 0; i < 10; ++i) expect_works(*b);
  });
  for (int i = 0; i < 10; ++i) expect_works(*a);
  other.join();
}

TEST_F(SessionTest, reconciles_the_statistics_of_both_ends) {
  start();
  std::vector<TransportSnapshot> clients;
  std::vector<OpSnapshotTable> ops;
  for (const RingChoice ring : {RingChoice::kOn, RingChoice::kOff}) {
    ConnectOptions options = client_options();
    options.ring.choice = ring;
    auto session = connect(options);
    ASSERT_NE(session, nullptr);
    expect_works(*session);
    ASSERT_TRUE(session->backend().ping(soon()).ok());
    auto own = session->backend().session_stats(soon());
    ASSERT_TRUE(own.ok()) << own.status().to_string();
    EXPECT_TRUE(nlohmann::json::accept(*own)) << *own;
    clients.push_back(snapshot_of(session->transport_stats()));
    ops.push_back(snapshot_of(session->op_stats()));
  }
  const nlohmann::json report = stop_and_read_stats();
  ASSERT_EQ(report.at("sessions").size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    // Sessions are listed in the order in which they ended; the first one's goodbye may be handled
    // late.
    const bool ring_session =
        report.at("sessions")[i].at("paths").at("ring").at("received").at("messages") != 0;
    const std::size_t mine = ring_session ? 0 : 1;
    for (const auto& [path, name] :
         {std::pair{Path::kRing, "ring"}, std::pair{Path::kZmq, "zmq"}}) {
      const nlohmann::json& server = report.at("sessions")[i].at("paths").at(name);
      const PathSnapshot& client = clients[mine][path];
      EXPECT_EQ(server.at("received").at("messages"), client.sent.messages) << name;
      EXPECT_EQ(server.at("received").at("tensors"), client.sent.tensors) << name;
      EXPECT_EQ(server.at("received").at("bytes"), client.sent.bytes) << name;
      EXPECT_EQ(server.at("sent").at("messages"), client.received.messages) << name;
      EXPECT_EQ(server.at("sent").at("tensors"), client.received.tensors) << name;
      EXPECT_EQ(server.at("sent").at("bytes"), client.received.bytes) << name;
      EXPECT_EQ(server.at("errors"), 0U) << name;
    }
    EXPECT_EQ(report.at("sessions")[i].at("ops").at("batch_linear").at("calls"),
              ops[mine][Op::kBatchLinear].calls);
    EXPECT_EQ(report.at("sessions")[i].at("ops").at("ping").at("calls"), 1U);
    EXPECT_EQ(report.at("sessions")[i].at("ops").at("stats").at("calls"), 1U);
  }
  EXPECT_EQ(report.at("ops").at("batch_linear").at("calls"), 6U);
}

TEST_F(SessionTest, tells_a_working_client_of_a_shutdown) {
  start();
  auto session = connect();
  ASSERT_NE(session, nullptr);
  std::atomic<bool> worked{false};
  Status end;
  std::thread worker([&] {
    while (end.ok()) {
      end = session->backend().ping(soon());
      if (end.ok()) worked.store(true);
    }
  });
  while (!worked.load()) std::this_thread::yield();
  EXPECT_TRUE(server_->stop().ok());
  worker.join();
  EXPECT_EQ(end.code(), StatusCode::kUnavailable) << end.to_string();
}

TEST_F(SessionTest, tells_an_idle_client_of_a_shutdown) {
  for (const RingChoice ring : {RingChoice::kOn, RingChoice::kOff}) {
    start();
    ConnectOptions options = client_options();
    options.ring.choice = ring;
    auto session = connect(options);
    ASSERT_NE(session, nullptr);
    ASSERT_TRUE(session->backend().ping(soon()).ok());
    EXPECT_TRUE(server_->stop().ok());
    EXPECT_EQ(session->backend().ping(soon()).code(), StatusCode::kUnavailable);
  }
}

TEST_F(SessionTest, publishes_statistics_when_asked_and_serves_on) {
  start();
  auto session = connect();
  ASSERT_NE(session, nullptr);
  ASSERT_TRUE(session->backend().ping(soon()).ok());
  server_->signal(SIGUSR1);
  const Deadline give_up = soon();
  while (!std::filesystem::exists(options_.stats_json)) {
    ASSERT_FALSE(give_up.expired());
    std::this_thread::yield();
  }
  std::ifstream file(options_.stats_json);
  EXPECT_EQ(nlohmann::json::parse(file).at("sessions").size(), 1U);
  expect_works(*session);
}

TEST_F(SessionTest, refuses_an_endpoint_in_use) {
  start();
  auto second = Server::bind(options_);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::kInUse);
  EXPECT_NE(second.status().message().find(std::to_string(::getpid())), std::string::npos);
  auto session = connect();  // the first one's socket is still there
  ASSERT_NE(session, nullptr);
  expect_works(*session);
}

TEST_F(SessionTest, refuses_an_endpoint_that_other_machines_reach_unless_told) {
  options_.endpoint = "tcp://0.0.0.0:0";
  auto server = Server::bind(options_);
  ASSERT_FALSE(server.ok());
  EXPECT_EQ(server.status().code(), StatusCode::kUsage);
  EXPECT_NE(server.status().message().find("--insecure-tcp"), std::string::npos);
  options_.insecure_tcp = true;
  EXPECT_TRUE(Server::bind(options_).ok());
}

TEST_F(SessionTest, says_that_memory_is_too_small_before_it_serves) {
  options_.ring.slot_count = 1024;
  options_.ring.slot_bytes = std::size_t{64} << 20;  // 128 GiB for one session
  for (const RingChoice choice : {RingChoice::kAuto, RingChoice::kOn}) {
    if (choice == RingChoice::kOn) options_.endpoint = free_tcp_endpoint();
    options_.ring.choice = choice;
    auto server = Server::bind(options_);
    if (server.ok()) GTEST_SKIP() << "there is room for it";
    EXPECT_EQ(server.status().code(), StatusCode::kResourceExhausted);
    EXPECT_NE(server.status().message().find("--ring-slots"), std::string::npos);
  }
}

TEST_F(SessionTest, serves_again_after_a_restart_and_old_sessions_stay_dead) {
  start();
  auto old = connect();
  ASSERT_NE(old, nullptr);
  ASSERT_TRUE(old->backend().ping(soon()).ok());
  EXPECT_TRUE(server_->stop().ok());
  start();
  auto fresh = connect();
  ASSERT_NE(fresh, nullptr);
  expect_works(*fresh);
  EXPECT_EQ(old->backend().ping(soon()).code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace airlock::testing
