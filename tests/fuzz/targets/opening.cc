#include "base/check.h"
#include "runtime/channel/frame.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

constexpr Opening kExpected{0x1122334455667788, 9};

std::vector<Bytes> seeds() {
  return {encode_opening(kExpected, {}), encode_opening(kExpected, Bytes(40, std::byte{7}))};
}

bool run(std::span<const std::byte> input) {
  const auto header = decode_opening(input, kExpected);
  if (!header.ok()) {
    CHECK(header.status().code() == StatusCode::kProtocolError);
    check_refusal(header.status());
    return false;
  }
  CHECK(encode_opening(kExpected, *header) == Bytes(input.begin(), input.end()));
  return true;
}

}  // namespace

constinit const Target kOpening = {"opening", seeds, run};

}  // namespace airlock::fuzz
