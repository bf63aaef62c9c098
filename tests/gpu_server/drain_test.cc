// The end of a server, and what /readyz and /healthz say of it meanwhile.

#include <gmock/gmock.h>

#include "tests/gpu_server/session_rig.h"

namespace airlock::testing {
namespace {

using ::testing::HasSubstr;

class DrainTest : public SessionTest {
 protected:
  void start_watched(double drain_seconds) {
    options_.metrics = free_tcp_endpoint().substr(std::string("tcp://").size());
    options_.drain_seconds = drain_seconds;
    start();
  }
  std::string look(const std::string& path) const {
    return http_get("http://" + options_.metrics, path);
  }
  std::string wait_for(const std::string& path, const std::string& status) const {
    return http_await("http://" + options_.metrics, path, status);
  }
};

TEST_F(DrainTest, sessions_are_served_on_and_new_ones_refused) {
  start_watched(3600);
  auto session = connect();
  ASSERT_NE(session, nullptr);
  EXPECT_THAT(wait_for("/readyz", "200"), HasSubstr("\r\n\r\nready\n"));
  server_->signal(SIGTERM);
  EXPECT_THAT(wait_for("/readyz", "503"), HasSubstr("\r\n\r\nshutting down\n"));
  EXPECT_THAT(look("/healthz"), HasSubstr(" 200 "));
  expect_refused(client_options(), StatusCode::kUnavailable, "shutting down");
  expect_works(*session);
  session.reset();
  // The last has left: nothing is waited for.
  EXPECT_TRUE(server_->wait().ok());
}

TEST_F(DrainTest, a_second_signal_ends_it_at_once) {
  start_watched(3600);
  auto session = connect();
  ASSERT_NE(session, nullptr);
  server_->signal(SIGTERM);
  wait_for("/readyz", "503");
  EXPECT_TRUE(session->check().ok());
  server_->signal(SIGINT);
  EXPECT_TRUE(server_->wait().ok());
  const Deadline give_up = soon();
  while (session->check().ok() && !give_up.expired())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_THAT(session->check().message(), HasSubstr("shutting down"));
}

TEST_F(DrainTest, it_ends_in_time) {
  start_watched(0.3);
  auto session = connect();
  ASSERT_NE(session, nullptr);
  EXPECT_TRUE(server_->stop().ok());
  EXPECT_FALSE(session->check().ok());
}

TEST_F(DrainTest, statistics_are_published_meanwhile) {
  start_watched(3600);
  auto session = connect();
  ASSERT_NE(session, nullptr);
  server_->signal(SIGTERM);
  wait_for("/readyz", "503");
  server_->signal(SIGUSR1);
  const Deadline give_up = soon();
  while (!std::filesystem::exists(options_.stats_json) && !give_up.expired())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(std::filesystem::exists(options_.stats_json));
  expect_works(*session);
}

TEST_F(DrainTest, a_server_whose_endpoint_was_removed_is_not_ready) {
  start_watched(0);
  EXPECT_THAT(wait_for("/readyz", "200"), HasSubstr("ready"));
  std::filesystem::remove(options_.endpoint.substr(std::string("ipc://").size()));
  EXPECT_THAT(wait_for("/readyz", "503"), HasSubstr("the endpoint was removed"));
  EXPECT_THAT(look("/healthz"), HasSubstr(" 200 "));
}

}  // namespace
}  // namespace airlock::testing
