#include "base/sink.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/unique_fd.h"

namespace airlock {
namespace {

std::string lost(std::uint64_t count) { return fmt::format("lost {}\n", count); }

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    reads.reset(ends[0]);
    writes.reset(ends[1]);
  }
  /// All of it, until nobody can write any more.
  std::string rest() const {
    std::string all;
    std::array<char, 4096> piece;
    for (ssize_t got = 0; (got = ::read(reads.get(), piece.data(), piece.size())) > 0;)
      all.append(piece.data(), static_cast<std::size_t>(got));
    return all;
  }
  UniqueFd reads;
  UniqueFd writes;
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(Sink, nobody_waits_for_a_stream_that_stands_still_and_what_is_lost_is_said) {
  constexpr std::uint64_t kTexts = 100'000;
  const Pipe pipe;
  std::string text;
  {
    Sink sink(pipe.writes.get(), lost);
    ASSERT_TRUE(sink.start_writer().ok());
    // Would end at the test's time limit: 64 KiB fit into the pipe.
    for (std::uint64_t i = 0; i < kTexts; ++i) sink.write(fmt::format("line {}\n", i));
    EXPECT_FALSE(sink.flush());
    std::thread reader([&] {
      std::array<char, 4096> piece;
      while (!text.ends_with("last\n")) {
        const ssize_t got = ::read(pipe.reads.get(), piece.data(), piece.size());
        text.append(piece.data(), static_cast<std::size_t>(got));
      }
    });
    while (!sink.flush()) {
    }
    sink.write("last\n");
    reader.join();
  }
  const auto lines = lines_of(text);
  ASSERT_GT(lines.size(), 3000U);
  // The oldest stayed, in their order.
  const std::uint64_t kept = lines.size() - 2;
  for (std::uint64_t i = 0; i < kept; ++i) ASSERT_EQ(lines[i], fmt::format("line {}", i));
  EXPECT_EQ(lines[kept], fmt::format("lost {}", kTexts - kept));
  EXPECT_EQ(lines.back(), "last");
}

TEST(Sink, loses_nothing_where_somebody_reads) {
  const Pipe pipe;
  std::string text;
  std::thread reader([&] {
    std::array<char, 64> piece;
    while (!text.ends_with("the end\n")) {
      const ssize_t got = ::read(pipe.reads.get(), piece.data(), piece.size());
      text.append(piece.data(), static_cast<std::size_t>(got));
    }
  });
  Sink sink(pipe.writes.get(), lost);
  ASSERT_TRUE(sink.start_writer().ok());
  // Larger than the queue, and than the pipe.
  const std::string large(3 * Sink::kMaxQueuedBytes, 'x');
  sink.write(large + '\n');
  while (!sink.flush()) {
  }
  sink.write("the end\n");
  reader.join();
  EXPECT_EQ(text, large + "\nthe end\n");
}

TEST(Sink, keeps_texts_of_several_threads_whole_and_in_order) {
  constexpr int kThreads = 4;
  constexpr int kTexts = 500;
  Pipe pipe;
  std::string text;
  std::thread reader([&] { text = pipe.rest(); });
  {
    Sink sink(pipe.writes.get(), lost);
    ASSERT_TRUE(sink.start_writer().ok());
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&sink, t] {
        for (int i = 0; i < kTexts; ++i)
          sink.write(fmt::format("{} {} {}\n", t, i, std::string(40, 'x')));
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  pipe.writes.reset();
  reader.join();
  std::map<int, int> next;
  for (const std::string& line : lines_of(text)) {
    std::istringstream words(line);
    int thread = -1;
    int index = -1;
    std::string rest;
    words >> thread >> index >> rest;
    EXPECT_EQ(rest, std::string(40, 'x'));
    EXPECT_EQ(index, next[thread]++);
  }
  for (int t = 0; t < kThreads; ++t) EXPECT_EQ(next[t], kTexts);
}

TEST(Sink, says_what_a_full_disk_did_not_take) {
  for (const bool with_writer : {false, true}) {
    Pipe pipe;
    const UniqueFd stream(::open("/dev/full", O_WRONLY | O_CLOEXEC));
    Sink sink(stream.get(), lost);
    if (with_writer) {
      ASSERT_TRUE(sink.start_writer().ok());
    }
    for (int i = 0; i < 3; ++i) sink.write("gone\n");
    while (!sink.flush()) {
    }
    ASSERT_EQ(::dup3(pipe.writes.get(), stream.get(), O_CLOEXEC), stream.get());
    sink.write("there\n");
    EXPECT_TRUE(sink.flush());
    std::array<char, 64> piece{};
    std::string text;
    while (!text.ends_with("there\n")) {
      text.append(piece.data(),
                  static_cast<std::size_t>(::read(pipe.reads.get(), piece.data(), piece.size())));
    }
    EXPECT_EQ(text, "lost 3\nthere\n");
  }
}

TEST(Sink, waits_for_a_stream_that_somebody_made_non_blocking) {
  Pipe pipe;
  ASSERT_EQ(::fcntl(pipe.writes.get(), F_SETFL, O_NONBLOCK), 0);
  std::string text;
  std::thread reader([&] { text = pipe.rest(); });
  {
    Sink sink(pipe.writes.get(), lost);
    for (int i = 0; i < 20'000; ++i) sink.write("a line of a program without a writer\n");
  }
  pipe.writes.reset();
  reader.join();
  EXPECT_EQ(lines_of(text).size(), 20'000U);
}

/// How `body` ends as a process of its own, whose stderr is a pipe; what it wrote, where somebody
/// reads.
int status_of(const std::function<void()>& body, std::string* read) {
  Pipe pipe;
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(pipe.writes.get(), STDERR_FILENO);
    if (!stderr_sink().start_writer().ok()) ::_exit(99);
    body();
    ::_exit(98);
  }
  pipe.writes.reset();
  if (read != nullptr) *read = pipe.rest();
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

// More than a pipe holds, less than the queue does.
constexpr std::size_t kLines = 8'000;
void log_a_lot() {
  for (std::size_t i = 0; i < kLines; ++i) log_info(fmt::format("line {}", i));
}

TEST(Sink, holds_up_no_end_of_the_process) {
  const int left = status_of(
      [] {
        log_a_lot();
        exit_at_once(7);
      },
      nullptr);
  EXPECT_TRUE(WIFEXITED(left));
  EXPECT_EQ(WEXITSTATUS(left), 7);
  const int aborted = status_of(
      [] {
        log_a_lot();
        CHECK(1 + 1 == 3);
      },
      nullptr);
  EXPECT_TRUE(WIFSIGNALED(aborted));
  EXPECT_EQ(WTERMSIG(aborted), SIGABRT);
}

TEST(Sink, has_the_last_lines_out_before_the_process_ends) {
  std::string text;
  (void)status_of(
      [] {
        log_a_lot();
        log_info("the last one");
        exit_at_once(0);
      },
      &text);
  EXPECT_EQ(lines_of(text).size(), kLines + 1);
  EXPECT_TRUE(text.ends_with("airlock: the last one\n"));
  (void)status_of(
      [] {
        log_info("before");
        CHECK(1 + 1 == 3);
      },
      &text);
  EXPECT_THAT(text, ::testing::MatchesRegex(
                        "airlock: before\n.*sink_test.cc:[0-9]+: CHECK failed: 1 \\+ 1 == 3\n"));
  // Nothing runs after SIGKILL: what was logged is out by then, unless the writer did not run for
  // Sink::kPatience, which on a busy machine happens now and then.
  text.clear();
  for (int i = 0; i < 20 && text.empty(); ++i) {
    (void)status_of(
        [] {
          log_info("before");
          ::raise(SIGKILL);
        },
        &text);
  }
  EXPECT_EQ(text, "airlock: before\n");
}

}  // namespace
}  // namespace airlock
