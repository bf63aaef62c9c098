// ClientSession against a whole server in this process: data socket, rings, statistics, ends.

#include "tests/gpu_server/session_rig.h"

namespace airlock::testing {
namespace {

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

TEST_F(SessionTest, has_as_many_data_sockets_as_both_sides_want) {
  struct {
    std::size_t server, runner, both;
  } const cases[] = {{1, 1, 1}, {4, 2, 2}, {2, 8, 2}, {8, 8, 8}, {3, 1, 1}, {0, 0, 1}};
  for (const auto& wanted : cases) {
    options_.endpoint = free_tcp_endpoint();
    options_.data_sockets = wanted.server;
    start();
    ConnectOptions client = client_options();
    client.data_sockets = wanted.runner;
    const auto session = connect(client);
    ASSERT_NE(session, nullptr);
    EXPECT_EQ(session->data_sockets(), wanted.both) << wanted.server << " and " << wanted.runner;
    expect_works(*session);
  }
}

TEST_F(SessionTest, has_one_data_socket_over_ipc) {
  options_.data_sockets = 4;
  start();
  ConnectOptions client = client_options();
  client.data_sockets = 4;
  const auto session = connect(client);
  ASSERT_NE(session, nullptr);
  EXPECT_EQ(session->data_sockets(), 1U);
  expect_works(*session);
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
