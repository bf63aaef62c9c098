#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "runtime/trace/trace_reader.h"
#include "tests/fuzz/trace_target.h"
#include "tests/support/temp_dir.h"
#include "tests/trace/golden_trace.h"

namespace airlock {
namespace {

std::vector<std::string> valid_lines() {
  std::vector<std::string> lines = {encode_trace_line(golden_header()),
                                    encode_trace_line(golden_cut_header())};
  for (const TraceRecord& record : golden_records()) lines.push_back(encode_trace_line(record));
  return lines;
}

/// One small damage: a bit, a byte of JSON's own, a number, a cut, a piece doubled, a piece of
/// another line.
void mutate(std::string& line, const std::string& other, std::mt19937& random) {
  static constexpr std::string_view kBytes = "{}[]\",:\\0129-+.eEntu \n\t\x01\xff";
  static constexpr std::string_view kPieces[] = {"null",
                                                 "true",
                                                 "-1",
                                                 "1e308",
                                                 "18446744073709551616",
                                                 "9223372036854775807",
                                                 "{}",
                                                 "[]",
                                                 "[[[[[",
                                                 "\"\"",
                                                 "0.5",
                                                 "\"ring\"",
                                                 "\\u0000",
                                                 "\"a\":",
                                                 "1,",
                                                 "99999999999999999999999"};
  if (line.empty()) line.push_back('{');
  const std::size_t at = random() % line.size();
  switch (random() % 7) {
    case 0:
      line[at] = static_cast<char>(line[at] ^ (1 << (random() % 8)));
      break;
    case 1:
      line[at] = kBytes[random() % kBytes.size()];
      break;
    case 2:
      line.resize(at);
      break;
    case 3:
      line.insert(at, kPieces[random() % std::size(kPieces)]);
      break;
    case 4:
      line.erase(at, random() % 40);
      break;
    case 5: {  // a value: what stands between two marks
      const std::size_t end = line.find_first_of(",]}", at);
      const std::size_t begin = line.find_last_of(":[,", at);
      if (begin != std::string::npos && end != std::string::npos && begin < end)
        line.replace(begin + 1, end - begin - 1, kPieces[random() % std::size(kPieces)]);
      break;
    }
    default:
      line.insert(at, other, random() % other.size(), random() % 100);
  }
}

TEST(TraceFuzz, survives_random_bytes) {
  std::mt19937 random(1);
  const TraceHeader header = golden_header();
  for (int round = 0; round < 20000; ++round) {
    std::string line(random() % 200, '\0');
    for (char& byte : line) byte = static_cast<char>(random());
    decode_any_trace_line(line, header);
  }
}

TEST(TraceFuzz, survives_damaged_lines) {
  const std::vector<std::string> lines = valid_lines();
  std::mt19937 random(2);
  const TraceHeader headers[] = {golden_header(), golden_cut_header()};
  for (int round = 0; round < 60000; ++round) {
    std::string line = lines[random() % lines.size()];
    for (std::size_t left = random() % 3 + 1; left > 0; --left)
      mutate(line, lines[random() % lines.size()], random);
    decode_any_trace_line(line, headers[random() % 2]);
  }
}

TEST(TraceFuzz, survives_every_byte_of_json_in_every_place) {
  const TraceHeader header = golden_header();
  for (const std::string& valid : {valid_lines()[0], valid_lines()[4]}) {
    for (std::size_t at = 0; at < valid.size(); ++at) {
      for (const char byte : {'{', '}', '[', ']', '"', ',', ':', '\\', '0', '-', '\0', '\xff'}) {
        std::string line = valid;
        line[at] = byte;
        decode_any_trace_line(line, header);
      }
    }
  }
}

/// Every record of the file at `path`, which has `lines` lines; what is given is what was promised.
void read_damaged(const std::string& path, std::size_t lines) {
  auto reader = TraceReader::open(path);
  if (!reader.ok()) {
    ASSERT_EQ(reader.status().code(), StatusCode::kInvalidInput);
    ASSERT_TRUE(reader.status().message().starts_with(path)) << reader.status().message();
    return;
  }
  ASSERT_TRUE(reader->header().dims.check().ok());
  std::size_t records = 0;
  for (;;) {
    const auto record = reader->next();
    if (!record.ok()) {
      ASSERT_EQ(record.status().code(), StatusCode::kInvalidInput);
      ASSERT_TRUE(record.status().message().starts_with(path + ":")) << record.status().message();
      break;
    }
    if (!record->has_value()) break;
    ASSERT_LT(++records, lines) << "more records than lines behind the header";
    const auto results = op_results((*record)->spec(), reader->header().dims);
    ASSERT_TRUE(results.ok()) << results.status().message();
    ASSERT_EQ(results->size(), (*record)->outputs.size());
  }
  if (reader->header().records != records) {
    const auto after = reader->next();
    ASSERT_TRUE(!after.ok() || after->has_value() || !reader->cut().empty());
  }
}

TEST(TraceFuzz, a_reader_survives_damaged_files) {
  const TempDir dir;
  std::string valid = encode_trace_line(golden_header()) + "\n";
  for (const TraceRecord& record : golden_records()) valid += encode_trace_line(record) + "\n";
  std::mt19937 random(3);
  for (int round = 0; round < 1000; ++round) {
    std::string text = valid;
    for (std::size_t left = random() % 3 + 1; left > 0; --left) mutate(text, valid, random);
    const auto newlines = static_cast<std::size_t>(std::ranges::count(text, '\n'));
    read_damaged(write_all(dir.file("t"), text), newlines + 1);
    if (HasFatalFailure()) FAIL() << "round " << round << ": " << text;
  }
}

}  // namespace
}  // namespace airlock
