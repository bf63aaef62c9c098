#include <cstdint>

#include "tests/fuzz/trace_target.h"
#include "tests/trace/golden_trace.h"

// libFuzzer's entry, built like proto_fuzzer.cc. Seeds: the lines of tests/data/traces/golden-*.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const airlock::TraceHeader header = airlock::golden_header();
  airlock::decode_any_trace_line({reinterpret_cast<const char*>(data), size}, header);
  return 0;
}
