// A trace as a file: what TraceReader gives of it.

#include <algorithm>

#include "base/check.h"
#include "runtime/trace/trace_line.h"
#include "runtime/trace/trace_reader.h"
#include "tests/fuzz/target.h"
#include "tests/support/temp_dir.h"
#include "tests/trace/golden_trace.h"

namespace airlock::fuzz {
namespace {

std::string text_of_trace(const TraceHeader& header, const std::vector<TraceRecord>& records) {
  std::string text = encode_trace_line(header) + "\n";
  for (const TraceRecord& record : records) text += encode_trace_line(record) + "\n";
  return text;
}

std::vector<Bytes> seeds() {
  const std::string whole = text_of_trace(golden_header(), golden_records());
  return bytes_of({whole, text_of_trace(golden_cut_header(), {golden_records()[0]}),
                   whole.substr(0, whole.size() - 1)});
}

/// The records up to the end; nullopt where a line was refused.
std::optional<std::vector<TraceRecord>> read_records(TraceReader& reader) {
  std::vector<TraceRecord> records;
  for (;;) {
    auto record = reader.next();
    if (!record.ok()) {
      CHECK(record.status().code() == StatusCode::kInvalidInput);
      check_refusal(record.status());
      return std::nullopt;
    }
    if (!record->has_value()) return records;
    records.push_back(std::move(**record));
  }
}

bool run(std::span<const std::byte> input) {
  static const TempDir directory;
  const std::string path = write_all(directory.file("trace"), text_of(input));
  auto reader = TraceReader::open(path);
  if (!reader.ok()) {
    CHECK(reader.status().code() == StatusCode::kInvalidInput);
    check_refusal(reader.status());
    return false;
  }
  const auto records = read_records(*reader);
  if (!records) return false;
  CHECK(records->size() <= static_cast<std::size_t>(std::ranges::count(text_of(input), '\n')) + 1);
  const std::string cut = reader->cut();
  CHECK(!cut.empty() || reader->header().records == records->size());
  // The same the second time, and from what we would write of it.
  CHECK(reader->rewind().ok());
  CHECK(read_records(*reader) == records && reader->cut() == cut);
  write_all(path, text_of_trace(reader->header(), *records));
  auto again = TraceReader::open(path);
  CHECK(again.ok() && again->header() == reader->header());
  CHECK(read_records(*again) == records);
  return true;
}

}  // namespace

constinit const Target kTraceFile = {"trace_file", seeds, run};

}  // namespace airlock::fuzz
