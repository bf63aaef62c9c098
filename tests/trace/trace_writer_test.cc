#include "runtime/trace/trace_writer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "base/unique_fd.h"
#include "tests/support/read_trace.h"
#include "tests/support/temp_dir.h"
#include "tests/trace/golden_trace.h"

namespace airlock {
namespace {

using WhenFull = TraceWriter::WhenFull;

mode_t mode_of(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? info.st_mode & 0777 : 0;
}

std::unique_ptr<TraceWriter> writer_of(const std::string& path, WhenFull when_full) {
  auto writer = TraceWriter::create(OutputFile::open(path).value(), golden_header(), when_full);
  EXPECT_TRUE(writer.ok()) << writer.status().to_string();
  return writer.ok() ? std::move(*writer) : nullptr;
}

/// A named pipe and its reading end, which nobody reads from unless told to.
struct Pipe {
  explicit Pipe(const TempDir& dir) : path(dir.file("pipe")) {
    ::signal(SIGPIPE, SIG_IGN);
    EXPECT_EQ(::mkfifo(path.c_str(), 0600), 0);
    end = UniqueFd(::open(path.c_str(), O_RDONLY | O_NONBLOCK));
    EXPECT_EQ(::fcntl(end.get(), F_SETFL, 0), 0);
  }
  /// Until the writer is gone.
  std::size_t count_lines() {
    std::size_t lines = 0;
    char buffer[65536];
    ssize_t count = 0;
    while ((count = ::read(end.get(), buffer, sizeof(buffer))) > 0) {
      lines += static_cast<std::size_t>(std::count(buffer, buffer + count, '\n'));
    }
    return lines;
  }
  std::string path;
  UniqueFd end;
};

TEST(TraceWriter, makes_a_private_file_that_reads_back) {
  const TempDir dir;
  const std::string path = dir.file("t.jsonl");
  auto writer = writer_of(path, WhenFull::kDrop);
  for (const TraceRecord& record : golden_records()) writer->add(record);
  ASSERT_TRUE(writer->close(777).ok());
  EXPECT_EQ(mode_of(path), 0600U);
  const auto trace = read_trace(path);
  ASSERT_TRUE(trace.ok()) << trace.status().to_string();
  EXPECT_EQ(trace->header.wall_ns, 777U);
  EXPECT_EQ(trace->header.records, 6U);
  EXPECT_EQ(trace->header.dropped, 0U);
  EXPECT_EQ(trace->cut, "");
  EXPECT_TRUE(trace->records == golden_records());
}

TEST(TraceWriter, replaces_a_longer_file_that_others_could_read) {
  const TempDir dir;
  const std::string path = write_all(dir.file("t.jsonl"), std::string(100000, 'x'));
  ASSERT_EQ(::chmod(path.c_str(), 0644), 0);
  auto writer = writer_of(path, WhenFull::kDrop);
  EXPECT_EQ(mode_of(path), 0600U);
  ASSERT_TRUE(writer->close(1).ok());
  EXPECT_EQ(read_trace(path)->records.size(), 0U);
}

TEST(TraceWriter, the_longest_numbers_fit_the_headers_room) {
  const TempDir dir;
  const std::string path = dir.file("t.jsonl");
  auto writer = writer_of(path, WhenFull::kDrop);
  ASSERT_TRUE(writer->close(366ULL * 24 * 3600 * 1'000'000'000).ok());
  EXPECT_EQ(read_trace(path)->header.wall_ns, 366ULL * 24 * 3600 * 1'000'000'000);
}

TEST(TraceWriter, without_a_close_the_trace_is_one_that_was_cut_off) {
  const TempDir dir;
  const std::string path = dir.file("t.jsonl");
  writer_of(path, WhenFull::kWait)->add(golden_records()[0]);
  const auto trace = read_trace(path);
  ASSERT_TRUE(trace.ok()) << trace.status().to_string();
  EXPECT_EQ(trace->records.size(), 1U);
  EXPECT_FALSE(trace->header.records.has_value());
  EXPECT_THAT(trace->cut, testing::HasSubstr("was cut off: it ends after 1 ops"));
}

TEST(TraceWriter, never_waits_for_a_blocked_disk_and_counts_what_it_drops) {
  const TempDir dir;
  Pipe pipe(dir);
  auto writer = writer_of(pipe.path, WhenFull::kDrop);
  const std::vector<TraceRecord> records = golden_records();
  constexpr std::size_t kAdded = 200000;  // more than the queue, a batch and the pipe hold
  for (std::size_t i = 0; i < kAdded; ++i) writer->add(records[0]);
  const std::uint64_t dropped = writer->dropped();
  EXPECT_GT(dropped, 0U);
  std::size_t lines = 0;
  std::thread reader([&] { lines = pipe.count_lines(); });
  EXPECT_TRUE(writer->close(1).ok());
  EXPECT_EQ(writer->dropped(), dropped);
  writer.reset();
  reader.join();
  EXPECT_EQ(lines, 1 + kAdded - dropped);
}

TEST(TraceWriter, waits_for_a_slow_reader_where_nothing_may_be_dropped) {
  const TempDir dir;
  Pipe pipe(dir);
  auto writer = writer_of(pipe.path, WhenFull::kWait);
  std::size_t lines = 0;
  std::thread reader([&] { lines = pipe.count_lines(); });
  const std::vector<TraceRecord> records = golden_records();
  constexpr std::size_t kAdded = 150000;
  for (std::size_t i = 0; i < kAdded; ++i) writer->add(records[0]);
  EXPECT_TRUE(writer->close(1).ok());
  EXPECT_EQ(writer->dropped(), 0U);
  writer.reset();
  reader.join();
  EXPECT_EQ(lines, 1 + kAdded);
}

TEST(TraceWriter, gives_up_a_reader_that_takes_nothing) {
  const TempDir dir;
  Pipe pipe(dir);
  auto writer = writer_of(pipe.path, WhenFull::kDrop);
  for (int i = 0; i < 1000; ++i) writer->add(golden_records()[1]);
  const Status status = writer->close(1);
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput) << status.to_string();
}

TEST(TraceWriter, a_waiting_add_gives_up_a_reader_that_takes_nothing) {
  const TempDir dir;
  Pipe pipe(dir);
  auto writer = writer_of(pipe.path, WhenFull::kWait);
  const TraceRecord record = golden_records()[0];
  for (int i = 0; i < 200000; ++i) writer->add(record);  // more than the queue and a batch hold
  EXPECT_GT(writer->dropped(), 0U);
  const Status status = writer->close(1);
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput) << status.to_string();
  EXPECT_THAT(status.message(), testing::HasSubstr(pipe.path));
}

TEST(TraceWriter, who_has_the_old_file_open_does_not_see_the_new_one) {
  const TempDir dir;
  const std::string path = write_all(dir.file("t.jsonl"), "old");
  std::ifstream old(path);
  auto writer = writer_of(path, WhenFull::kDrop);
  ASSERT_TRUE(writer->close(1).ok());
  std::string text;
  std::getline(old, text);
  EXPECT_EQ(text, "old");
}

TEST(TraceWriter, a_reader_that_went_away_is_a_failure_that_close_tells) {
  const TempDir dir;
  Pipe pipe(dir);
  auto writer = writer_of(pipe.path, WhenFull::kWait);
  pipe.end.reset();
  for (int i = 0; i < 100000; ++i) writer->add(golden_records()[0]);  // none of them waits
  const Status status = writer->close(1);
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(status.message(), testing::HasSubstr(pipe.path));
}

TEST(TraceWriter, a_full_disk_is_told_at_once) {
  const auto writer =
      TraceWriter::create(OutputFile::open("/dev/full").value(), golden_header(), WhenFull::kDrop);
  ASSERT_FALSE(writer.ok());
  EXPECT_EQ(writer.status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(exit_code(writer.status().code()), 5);
}

TEST(TraceWriter, a_file_that_may_not_grow_is_told_by_close) {
  ::signal(SIGXFSZ, SIG_IGN);
  const TempDir dir;
  const std::string path = dir.file("t.jsonl");
  auto writer = writer_of(path, WhenFull::kDrop);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  for (int i = 0; i < 100; ++i) writer->add(golden_records()[0]);
  const Status status = writer->close(1);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.to_string();
  const auto trace = read_trace(path);
  ASSERT_TRUE(trace.ok()) << trace.status().to_string();
  EXPECT_NE(trace->cut, "");
}

TEST(TraceWriter, that_cannot_begin_leaves_the_older_trace) {
  ::signal(SIGXFSZ, SIG_IGN);
  const TempDir dir;
  const std::string path = write_all(dir.file("t.jsonl"), "older");
  OutputFile place = OutputFile::open(path).value();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  // Less than the header.
  small.rlim_cur = 10;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto writer = TraceWriter::create(std::move(place), golden_header(), WhenFull::kDrop);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_FALSE(writer.ok());
  EXPECT_EQ(writer.status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(read_all(path), "older");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(TraceWriter, follows_a_link_and_leaves_it) {
  const TempDir dir;
  const std::string link = dir.file("link");
  ASSERT_EQ(::symlink("t.jsonl", link.c_str()), 0);
  for (const bool there : {false, true}) {
    auto writer = writer_of(link, WhenFull::kWait);
    writer->add(golden_records()[0]);
    ASSERT_TRUE(writer->close(1).ok()) << there;
    EXPECT_TRUE(std::filesystem::is_symlink(link));
    EXPECT_EQ(read_trace(dir.file("t.jsonl"))->records.size(), 1U);
  }
}

}  // namespace
}  // namespace airlock
