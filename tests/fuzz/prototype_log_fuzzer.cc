#include <cstdint>

#include "tests/fuzz/log_target.h"

// libFuzzer's entry, as proto_fuzzer.cc's.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  airlock::import_anything({reinterpret_cast<const char*>(data), size});
  return 0;
}
