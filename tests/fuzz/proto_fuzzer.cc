#include <cstdint>

#include "tests/fuzz/codec_target.h"

// libFuzzer's entry: cmake -DCMAKE_CXX_COMPILER=clang++ -DAIRLOCK_FUZZ=ON
// -DAIRLOCK_SANITIZE=address,undefined
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  airlock::decode_anything({reinterpret_cast<const std::byte*>(data), size});
  return 0;
}
