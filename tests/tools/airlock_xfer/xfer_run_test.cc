// Forks real peers: the program runs single-threaded between the runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/available_memory.h"
#include "tools/airlock_xfer/run.h"

namespace airlock::xfer {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kLimit = 65536;

Options small_run() {
  Options options;
  options.sizes = {1, 64, kLimit - 4096, kLimit, kLimit + 4096, 300000};
  options.geometry = {8, kLimit};
  options.iterations = 12;
  options.warmup = 2;
  options.timeout = std::chrono::milliseconds(60000);
  options.command = "test";
  return options;
}

/// A TMPDIR of the test's own, to see that nothing stays in it.
class Run : public ::testing::Test {
 protected:
  Run() {
    EXPECT_NE(::mkdtemp(directory_.data()), nullptr);
    ::setenv("TMPDIR", directory_.c_str(), 1);
  }
  ~Run() override {
    EXPECT_TRUE(std::filesystem::is_empty(directory_));
    std::filesystem::remove_all(directory_);
    ::unsetenv("TMPDIR");
  }
  Outcome run(const Options& options, const Hooks& hooks = {}) {
    const auto sink = [this](std::string_view part) {
      text_ += part;
      return Status();
    };
    return xfer::run(options, sink, -1, hooks);
  }

  std::string directory_ = "/tmp/airlock-xfer-test-XXXXXX";
  std::string text_;
};

TEST_F(Run, ends_where_nobody_can_see_its_rows) {
  std::size_t parts = 0;
  const auto full = [&parts](std::string_view) {
    return ++parts == 3 ? Status(StatusCode::kResourceExhausted, "full") : Status();
  };
  const Outcome outcome = xfer::run(small_run(), full);
  EXPECT_EQ(outcome.status.code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(outcome.rows.empty());
  EXPECT_EQ(parts, 3U);
}

TEST_F(Run, carries_every_size_on_every_path_that_can) {
  const Outcome outcome = run(small_run());
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.message();
  ASSERT_EQ(outcome.rows.size(), 24U);
  for (const Row& row : outcome.rows) {
    const bool fits = row.bytes < kLimit;
    if ((row.asked == Path::kRing && !fits) ||
        (row.asked == Path::kPool && row.bytes < limits::kMinPoolTensorBytes)) {
      EXPECT_FALSE(row.measured.has_value()) << row.bytes;
      continue;
    }
    ASSERT_TRUE(row.measured.has_value()) << row.bytes;
    const Measured& m = *row.measured;
    const Path largest = row.asked.value_or(fits ? Path::kRing : Path::kPool);
    EXPECT_EQ(m.taken, name_of(largest)) << row.bytes;
    EXPECT_EQ(m.iterations, 12U);
    EXPECT_EQ(m.wrong_bytes, 0U);
    EXPECT_GT(m.p50_ns, 0);
    EXPECT_LE(m.p50_ns, m.p90_ns);
    EXPECT_LE(m.p90_ns, m.p99_ns);
    EXPECT_LE(m.p99_ns, m.max_ns);
    EXPECT_GT(m.memcpy_ns, 0);
  }
  EXPECT_THAT(text_, HasSubstr("n/a"));
  EXPECT_THAT(text_, HasSubstr("# peak: ring "));
}

TEST_F(Run, says_what_to_do_where_no_directory_can_be_made) {
  ::setenv("TMPDIR", (directory_ + "/none").c_str(), 1);
  const Outcome outcome = run(small_run());
  EXPECT_EQ(outcome.status.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(outcome.status.message(), HasSubstr("set TMPDIR"));
}

TEST_F(Run, streams_on_every_path) {
  for (const std::size_t inflight : {1, 4, 64}) {  // also more than there are slots
    Options options = small_run();
    options.mode = Mode::kStream;
    options.inflight = inflight;
    options.iterations = 100;
    const Outcome outcome = run(options);
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.message();
    for (const Row& row : outcome.rows) {
      if (!row.measured.has_value()) continue;
      EXPECT_EQ(row.measured->iterations, 100U);
      EXPECT_EQ(row.measured->wrong_bytes, 0U);
      EXPECT_GT(row.measured->one_way_ns, 0);
    }
  }
}

TEST_F(Run, streams_large_messages) {
  Options options = small_run();
  options.mode = Mode::kStream;
  options.paths = {Path::kZmq, std::nullopt};
  options.sizes = {std::size_t{20} << 20};  // several frames each
  options.iterations = 6;
  const Outcome outcome = run(options);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.message();
}

TEST_F(Run, goes_over_tcp) {
  Options options = small_run();
  options.zmq = ZmqTransport::kTcp;
  const Outcome outcome = run(options);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.message();
  EXPECT_EQ(outcome.rows.size(), 24U);
}

TEST_F(Run, sees_that_both_processes_are_on_one_cpu) {
  Options options = small_run();
  const int cpu = ::sched_getcpu();
  options.cpus = CpuPair{cpu, cpu};
  const Outcome outcome = run(options);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.message();
  EXPECT_EQ(outcome.rows[0].measured->same_cpu_share, 1.0);
  EXPECT_THAT(text_, HasSubstr("# one CPU: in 19 of 19 rows"));
}

TEST_F(Run, gives_its_cpus_back) {
  cpu_set_t before;
  cpu_set_t after;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(before), &before), 0);
  Options options = small_run();
  options.cpus = CpuPair{::sched_getcpu(), ::sched_getcpu()};
  EXPECT_TRUE(run(options).status.ok());
  ASSERT_EQ(::sched_getaffinity(0, sizeof(after), &after), 0);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
}

TEST_F(Run, makes_three_iterations_whatever_the_time) {
  Options options = small_run();
  options.max_seconds = 1e-9;
  const Outcome outcome = run(options);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.message();
  EXPECT_EQ(outcome.rows[0].measured->iterations, 3U);
}

TEST_F(Run, leaves_no_name_of_what_it_maps) {
  Options options = small_run();
  options.mode = Mode::kStream;  // its hook runs in this process
  options.check = false;
  options.sizes = {64};
  std::map<std::string, bool> deleted;
  bool directory_is_empty = false;
  Hooks hooks;
  hooks.on_write = [&](std::uint64_t message, std::span<std::byte>) {
    if (message != 0) return;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      const auto at = line.find("/memfd:airlock-");
      if (at != std::string::npos) deleted[line.substr(at)] = line.ends_with("(deleted)");
    }
    directory_is_empty = std::filesystem::is_empty(directory_);
  };
  const Outcome outcome = run(options, hooks);
  EXPECT_TRUE(outcome.status.ok()) << outcome.status.message();
  EXPECT_EQ(deleted.size(), 5U);  // two rings twice, and pools of one name
  for (const auto& [name, is_deleted] : deleted) EXPECT_TRUE(is_deleted) << name;
  EXPECT_TRUE(directory_is_empty);
}

TEST_F(Run, counts_bytes_that_the_peer_corrupts) {
  Options options = small_run();
  Hooks hooks;
  hooks.on_write = [](std::uint64_t message, std::span<std::byte> tensor) {
    if (message == 5) tensor.back() ^= std::byte{0x80};
  };
  const Outcome outcome = run(options, hooks);
  EXPECT_EQ(outcome.status.code(), StatusCode::kMismatch);
  EXPECT_EQ(exit_code(outcome.status.code()), 4);
  ASSERT_EQ(outcome.rows.size(), 24U);  // the run goes on
  EXPECT_EQ(outcome.rows[0].measured->wrong_bytes, 1U);
  EXPECT_EQ(outcome.rows[2].measured->wrong_bytes, 0U);
  EXPECT_THAT(text_, HasSubstr("# wrong bytes: 1\n"));
}

TEST_F(Run, counts_bytes_that_were_wrong_on_each_path) {
  Options options = small_run();
  Hooks hooks;
  hooks.on_write = [](std::uint64_t, std::span<std::byte> tensor) { tensor[0] ^= std::byte{1}; };
  for (const Mode mode : {Mode::kEcho, Mode::kStream}) {
    options.mode = mode;
    const Outcome outcome = run(options, hooks);
    EXPECT_EQ(outcome.status.code(), StatusCode::kMismatch);
    // Each echo, the warm-up's too; of a stream those of the pass that is checked.
    const std::uint64_t expected = mode == Mode::kEcho ? 14U : 12U;
    for (const Row& row : outcome.rows) {
      if (!row.measured.has_value()) continue;
      EXPECT_EQ(row.measured->wrong_bytes, expected) << row.bytes;
    }
  }
}

TEST_F(Run, finds_an_echo_that_never_changed) {
  Options options = small_run();
  options.paths = {Path::kRing};
  options.sizes = {4096};
  std::vector<std::byte> first;
  Hooks hooks;
  hooks.on_write = [&first](std::uint64_t message, std::span<std::byte> tensor) {
    if (message == 0) first.assign(tensor.begin(), tensor.end());
    std::ranges::copy(first, tensor.begin());
  };
  EXPECT_EQ(run(options, hooks).status.code(), StatusCode::kMismatch);
}

TEST_F(Run, checks_nothing_where_that_is_asked) {
  Options options = small_run();
  options.check = false;
  Hooks hooks;
  hooks.on_write = [](std::uint64_t, std::span<std::byte> tensor) { tensor[0] ^= std::byte{1}; };
  EXPECT_TRUE(run(options, hooks).status.ok());
}

TEST_F(Run, ends_with_the_rows_so_far_when_the_peer_is_killed) {
  Options options = small_run();
  Hooks hooks;
  hooks.on_write = [](std::uint64_t message, std::span<std::byte>) {
    if (message == 14 * 3 + 5) ::kill(::getpid(), SIGKILL);  // in the fourth row that has any
  };
  const Outcome outcome = run(options, hooks);
  EXPECT_EQ(outcome.status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(exit_code(outcome.status.code()), 3);
  EXPECT_THAT(outcome.status.message(), HasSubstr("killed by signal 9"));
  EXPECT_EQ(outcome.rows.size(), 4U);  // one of them n/a
  EXPECT_THAT(text_, HasSubstr("# ended early or failed: "));
}

TEST_F(Run, names_the_exit_code_of_a_peer_that_ended) {
  Hooks hooks;
  hooks.on_write = [](std::uint64_t, std::span<std::byte>) { ::_exit(17); };
  const Outcome outcome = run(small_run(), hooks);
  EXPECT_EQ(exit_code(outcome.status.code()), 3);
  EXPECT_THAT(outcome.status.message(), HasSubstr("exit code 17"));
}

TEST_F(Run, gives_up_a_peer_that_stalls) {
  for (const auto path : {Path::kRing, Path::kZmq}) {
    for (const auto mode : {Mode::kEcho, Mode::kStream}) {
      Options options = small_run();
      options.paths = {path};
      options.mode = mode;
      options.timeout = std::chrono::milliseconds(300);
      const pid_t parent = ::getpid();
      Hooks hooks;
      hooks.on_write = [parent](std::uint64_t message, std::span<std::byte>) {
        if (message == 3 && ::getpid() != parent) ::raise(SIGSTOP);
        if (message == 3 && ::getpid() == parent) {  // the peer of a stream: our only child
          std::ifstream children("/proc/self/task/" + std::to_string(parent) + "/children");
          pid_t peer = 0;
          if (children >> peer) ::kill(peer, SIGSTOP);
        }
      };
      const Outcome outcome = run(options, hooks);
      EXPECT_EQ(outcome.status.code(), StatusCode::kDeadlineExceeded) << outcome.status.message();
      EXPECT_EQ(exit_code(outcome.status.code()), 3);
      EXPECT_THAT(outcome.status.message(), HasSubstr("stalled"));
    }
  }
}

TEST_F(Run, needs_room_for_its_rings) {
  Options options = small_run();
  options.geometry = {1024, 64U << 20};
  if (memory_available_bytes().value_or(~std::uint64_t{0}) > (std::uint64_t{128} << 30)) {
    GTEST_SKIP() << "there is memory for 128 GiB";
  }
  const Outcome outcome = run(options);
  EXPECT_EQ(outcome.status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(exit_code(outcome.status.code()), 5);
  EXPECT_THAT(outcome.status.message(), HasSubstr("need 128.0 GiB"));
  EXPECT_THAT(outcome.status.message(), HasSubstr("are free here"));
}

TEST_F(Run, without_rings_needs_no_room_for_them) {
  Options options = small_run();
  options.paths = {Path::kZmq};
  options.geometry = {1024, 64U << 20};
  EXPECT_TRUE(run(options).status.ok());
}

}  // namespace
}  // namespace airlock::xfer
