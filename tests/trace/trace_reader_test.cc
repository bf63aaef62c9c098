#include "runtime/trace/trace_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <fstream>
#include <string>

#include "runtime/trace/trace_line.h"
#include "tests/support/read_trace.h"
#include "tests/support/sanitizer.h"
#include "tests/support/temp_dir.h"
#include "tests/trace/golden_trace.h"

namespace airlock {
namespace {

using testing::HasSubstr;

std::string golden_text() {
  std::string text = encode_trace_line(golden_header()) + "\n";
  for (const TraceRecord& record : golden_records()) text += encode_trace_line(record) + "\n";
  return text;
}

std::string replace_first(std::string text, std::string_view from, std::string_view to) {
  return text.replace(text.find(from), from.size(), to);
}

void expect_refused(const std::string& path, const std::string& message) {
  const auto trace = read_trace(path);
  ASSERT_FALSE(trace.ok()) << path;
  EXPECT_EQ(trace.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(trace.status().message(), HasSubstr(path));
  EXPECT_THAT(trace.status().message(), HasSubstr(message));
}

TEST(TraceReader, a_trace_cut_at_any_byte_gives_the_whole_ops_before_the_cut) {
  const TempDir dir;
  const std::string text = golden_text();
  const std::size_t header_bytes = text.find('\n');
  for (std::size_t bytes = 1; bytes < text.size(); ++bytes) {
    const auto trace = read_trace(write_all(dir.file("t"), text.substr(0, bytes)));
    if (bytes < header_bytes) {
      EXPECT_FALSE(trace.ok()) << bytes;
      continue;
    }
    ASSERT_TRUE(trace.ok()) << bytes << ": " << trace.status().to_string();
    const auto all = golden_records();
    std::size_t whole = 0;  // a line without its newline is whole where all of it is there
    for (std::size_t at = header_bytes + 1; whole < all.size(); ++whole) {
      at += encode_trace_line(all[whole]).size() + 1;
      if (at > bytes + 1) break;
    }
    EXPECT_EQ(trace->records.size(), whole) << bytes;
    EXPECT_THAT(trace->cut, HasSubstr("was cut off")) << bytes;
    for (std::size_t i = 0; i < trace->records.size(); ++i)
      EXPECT_TRUE(trace->records[i] == all[i]);
  }
}

TEST(TraceReader, a_bad_line_in_the_middle_is_refused_with_its_number) {
  const TempDir dir;
  std::string text = golden_text();
  text.insert(text.find('\n', text.find('\n') + 1) + 1, "{\"seq\":1}\n");
  expect_refused(write_all(dir.file("t"), text), "t:3: ");
}

TEST(TraceReader, a_bad_last_line_with_its_end_is_refused) {
  const TempDir dir;
  expect_refused(write_all(dir.file("t"), golden_text() + "{}\n"), "t:8: ");
}

TEST(TraceReader, takes_no_notice_of_blank_lines_and_carriage_returns) {
  const TempDir dir;
  const std::string text = golden_text();
  std::string windows = "\r\n";
  for (const char c : text) windows += c == '\n' ? std::string("\r\n") : std::string(1, c);
  for (const std::string& same :
       {text + "\n", text + "\r\n \t\n", text + " ", windows, windows + "\r\n", "\n" + text,
        replace_first(text, "\n", "\n\n")}) {
    const auto trace = read_trace(write_all(dir.file("t"), same));
    ASSERT_TRUE(trace.ok()) << trace.status().to_string();
    EXPECT_TRUE(trace->records == golden_records());
    EXPECT_EQ(trace->cut, "");
  }
  expect_refused(write_all(dir.file("t"), "\n\n"), "it is empty");
  // Lines are counted as an editor does.
  expect_refused(write_all(dir.file("t"), replace_first(text, "\n", "\n\n{}\n")), "t:3: ");
}

TEST(TraceReader, an_overlong_line_is_refused_wherever_it_stands) {
  const TempDir dir;
  const std::string blanks(kMaxTraceLineBytes + 1, ' ');
  expect_refused(write_all(dir.file("t"), blanks + golden_text()), "t:1: a line over 65536 bytes");
  expect_refused(write_all(dir.file("t"), golden_text() + blanks + "{}\n"), "t:8: a line over");
  expect_refused(write_all(dir.file("t"), golden_text() + blanks), "t:8: a line over");
  expect_refused(write_all(dir.file("t"), std::string(std::size_t{8} << 20, 'x')), "t:1: a line");
}

TEST(TraceReader, the_longest_line_is_read) {
  const TempDir dir;
  std::string line = encode_trace_line(golden_header());
  line.resize(kMaxTraceLineBytes, ' ');
  EXPECT_TRUE(read_trace(write_all(dir.file("t"), line + "\n")).ok());
}

TEST(TraceReader, what_is_no_trace_is_refused) {
  const TempDir dir;
  expect_refused(write_all(dir.file("empty"), ""), "it is empty");
  expect_refused(write_all(dir.file("text"), "hello\n"), "text:1: ");
  expect_refused(write_all(dir.file("zeros"), std::string(100, '\0')), "zeros:1: ");
  expect_refused(dir.file("missing"), "No such file");
  expect_refused(dir.path().string(), "is not a regular file");
  const std::string pipe = dir.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_refused(pipe, "is not a regular file");
  expect_refused("/dev/zero", "is not a regular file");
}

TEST(TraceReader, reads_again_after_rewind) {
  const TempDir dir;
  auto reader = TraceReader::open(write_all(dir.file("t"), golden_text()));
  ASSERT_TRUE(reader.ok());
  for (int round = 0; round < 2; ++round) {
    for (const TraceRecord& expected : golden_records()) {
      const auto record = reader->next();
      ASSERT_TRUE(record.ok() && record->has_value());
      EXPECT_TRUE(**record == expected);
    }
    EXPECT_FALSE(reader->next()->has_value());
    EXPECT_EQ(reader->cut(), "");
    ASSERT_TRUE(reader->rewind().ok());
  }
}

TEST(TraceReader, a_last_line_without_its_end_is_taken_where_it_is_whole_and_said) {
  const TempDir dir;
  std::string text = golden_text();
  text.pop_back();
  auto reader = TraceReader::open(write_all(dir.file("t"), text));
  ASSERT_TRUE(reader.ok());
  for (int round = 0; round < 2; ++round) {
    for (std::size_t i = 0; i < golden_records().size(); ++i)
      EXPECT_TRUE(reader->next()->has_value());
    EXPECT_EQ(reader->cut(), "");
    EXPECT_FALSE(reader->next()->has_value());
    EXPECT_THAT(reader->cut(), HasSubstr("t was cut off: line 7, its last, has no end"));
    ASSERT_TRUE(reader->rewind().ok());
  }
}

TEST(TraceReader, more_ops_than_the_header_says_are_not_called_cut_off) {
  const TempDir dir;
  const std::string more = golden_text() + encode_trace_line(golden_records().back()) + "\n";
  const auto trace = read_trace(write_all(dir.file("t"), more));
  ASSERT_TRUE(trace.ok()) << trace.status().to_string();
  EXPECT_EQ(trace->records.size(), 7U);
  EXPECT_THAT(trace->cut, HasSubstr("t has 7 ops, its header says 6"));
}

TEST(TraceReader, what_was_said_of_the_end_stays) {
  const TempDir dir;
  const std::string text = golden_text();
  auto reader = TraceReader::open(write_all(dir.file("t"), text.substr(0, text.size() - 9)));
  ASSERT_TRUE(reader.ok());
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(reader->next()->has_value());
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(reader->next()->has_value());
    EXPECT_THAT(reader->cut(), HasSubstr("in the middle of line 7, after 5 ops"));
  }
}

TEST(TraceReader, a_million_ops_stream_in_bounded_memory) {
#if AIRLOCK_ASAN || AIRLOCK_TSAN
  constexpr std::size_t kOps = 50'000;  // slow there, and what is freed they keep for long
#else
  constexpr std::size_t kOps = 1'000'000;
#endif
  const TempDir dir;
  const std::string path = dir.file("large");
  {
    TraceHeader header = golden_cut_header();
    header.records = kOps;
    header.wall_ns = 1;
    std::ofstream file(path, std::ios::binary);
    file << encode_trace_line(header) << '\n';
    std::string line = encode_trace_line(golden_cut_records()[0]) + '\n';
    line.erase(0, line.find(','));  // without {"seq":0
    for (std::size_t i = 0; i < kOps; ++i) file << "{\"seq\":" << i << line;
    ASSERT_TRUE(file.good());
  }
  rusage before{};
  ::getrusage(RUSAGE_SELF, &before);
  auto reader = TraceReader::open(path);
  ASSERT_TRUE(reader.ok()) << reader.status().to_string();
  std::uint64_t next_seq = 0;
  for (;;) {
    const auto record = reader->next();
    ASSERT_TRUE(record.ok()) << record.status().to_string();
    if (!record->has_value()) break;
    ASSERT_EQ((*record)->seq, next_seq++);
  }
  EXPECT_EQ(next_seq, kOps);
  EXPECT_EQ(reader->cut(), "");
  rusage after{};
  ::getrusage(RUSAGE_SELF, &after);
#if !AIRLOCK_ASAN && !AIRLOCK_TSAN
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 64 * 1024);  // KiB
#endif
}

}  // namespace
}  // namespace airlock
