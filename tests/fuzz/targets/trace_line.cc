#include "tests/fuzz/target.h"
#include "tests/fuzz/trace_target.h"
#include "tests/trace/golden_trace.h"

namespace airlock::fuzz {
namespace {

std::vector<Bytes> seeds() {
  std::vector<std::string> lines = {encode_trace_line(golden_header()),
                                    encode_trace_line(golden_cut_header())};
  for (const TraceRecord& record : golden_records()) lines.push_back(encode_trace_line(record));
  return bytes_of(lines);
}

bool run(std::span<const std::byte> input) {
  static const TraceHeader header = golden_header();
  const Status as_header = decode_any_trace_header(text_of(input));
  const Status as_record = decode_any_trace_record(text_of(input), header);
  for (const Status& status : {as_header, as_record}) {
    if (status.ok()) return true;
    CHECK(status.code() == StatusCode::kInvalidInput);
    check_refusal(status);
  }
  return false;
}

}  // namespace

constinit const Target kTraceLine = {"trace_line", seeds, run};

}  // namespace airlock::fuzz
