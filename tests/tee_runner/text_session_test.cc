// How long the first model is waited for, by a server that refuses.

#include "tee_runner/text_session.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <thread>

#include "runtime/rpc/control_connection.h"
#include "tests/support/in_child.h"
#include "tests/support/sanitizer.h"
#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

/// Refuses whoever comes.
class Refuser {
 public:
  explicit Refuser(StatusCode code)
      : code_(code),
        listener_(ControlListener::listen(parse_endpoint(endpoint()).value()).value()),
        thread_([this] { work(); }) {}
  ~Refuser() {
    stops_ = true;
    thread_.join();
  }
  Refuser(const Refuser&) = delete;
  Refuser& operator=(const Refuser&) = delete;

  std::string endpoint() const { return "ipc://" + folder_.file("ctl"); }
  int asked() const { return asked_; }

 private:
  static bool is_spoken_to(ControlConnection& connection) {
    const auto heard = connection.receive();
    return !heard.ok() || heard->has_value();
  }
  void work() {
    std::optional<ControlConnection> connection;
    while (!stops_) {
      if (!connection) connection = listener_.accept();
      if (connection && is_spoken_to(*connection)) {
        ++asked_;
        (void)connection->send(Refusal{code_, "as the test wants it"});
        connection.reset();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  const TempDir folder_;
  const StatusCode code_;
  ControlListener listener_;
  std::atomic<bool> stops_{false};
  std::atomic<int> asked_{0};
  std::thread thread_;
};

struct Started {
  StatusCode code = StatusCode::kOk;
  int waits = 0;  // how often it was said that the server is waited for
};

/// From here on this process can open nothing more.
void take_descriptors() {
  rlimit files{};
  CHECK(::getrlimit(RLIMIT_NOFILE, &files) == 0);
  const int next = ::dup(STDERR_FILENO);
  CHECK(next >= 0 && ::close(next) == 0);
  files.rlim_cur = static_cast<rlim_t>(next);
  CHECK(::setrlimit(RLIMIT_NOFILE, &files) == 0);
}

Started start(const std::string& endpoint, std::chrono::nanoseconds patience,
              bool lacks_descriptors = false) {
  TextOptions options;
  options.endpoint = endpoint;
  auto reporter = StatsReporter::create(std::nullopt).value();
  if (lacks_descriptors) take_descriptors();
  Started started;
  EngineLimits limits;
  limits.server_patience = patience;
  limits.waits = [&started](const Status&) { ++started.waits; };
  started.code = TextSession::start(options, *reporter, limits).status().code();
  return started;
}

TEST(TextSession, a_server_without_room_is_waited_for) {
  const Refuser server(StatusCode::kResourceExhausted);
  const Started started = start(server.endpoint(), std::chrono::milliseconds(700));
  EXPECT_EQ(started.code, StatusCode::kResourceExhausted);
  EXPECT_EQ(started.waits, 1);
  EXPECT_GE(server.asked(), 2);
}

TEST(TextSession, what_no_server_mends_by_itself_is_not_waited_for) {
  for (const StatusCode code : {StatusCode::kMismatch, StatusCode::kVersionMismatch,
                                StatusCode::kInvalidInput, StatusCode::kInternal}) {
    const Refuser server(code);
    const Started started = start(server.endpoint(), std::chrono::seconds(5));
    EXPECT_EQ(started.code, code) << name_of(code);
    EXPECT_EQ(started.waits, 0) << name_of(code);
    EXPECT_EQ(server.asked(), 1) << name_of(code);
  }
}

TEST(TextSession, a_lack_of_this_process_is_not_waited_for) {
  if (AIRLOCK_ASAN) GTEST_SKIP() << "UBSan needs a descriptor of its own to look at an object";
  EXPECT_TRUE(holds_in_a_child([] {
    const Started started = start("ipc:///nonexistent/ctl", std::chrono::seconds(5), true);
    return started.code == StatusCode::kResourceExhausted && started.waits == 0;
  }));
}

TEST(TextSession, without_patience_a_server_is_asked_for_once) {
  const Refuser server(StatusCode::kUnavailable);
  const Started started = start(server.endpoint(), std::chrono::nanoseconds(0));
  EXPECT_EQ(started.code, StatusCode::kUnavailable);
  EXPECT_EQ(started.waits, 0);
  EXPECT_EQ(server.asked(), 1);
}

}  // namespace
}  // namespace airlock
