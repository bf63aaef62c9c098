#include "base/check.h"
#include "runtime/channel/frame.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

constexpr Opening kExpected{0x1122334455667788, 9};

std::vector<Bytes> seeds() {
  Bytes with_tensor(inline_start(5) + 3);
  write_opening(kExpected, Bytes(5, std::byte{7}), std::span(with_tensor).first(inline_start(5)));
  return {encode_opening(kExpected, {}), encode_opening(kExpected, Bytes(40, std::byte{7})),
          with_tensor};
}

bool run(std::span<const std::byte> input) {
  const auto header = decode_opening(input, kExpected);
  if (!header.ok()) {
    CHECK(header.status().code() == StatusCode::kProtocolError);
    check_refusal(header.status());
    return false;
  }
  Bytes again = encode_opening(kExpected, header->header);
  if (!header->behind.empty()) {
    again.resize(inline_start(header->header.size()));
    again.insert(again.end(), header->behind.begin(), header->behind.end());
  }
  CHECK(again == Bytes(input.begin(), input.end()));
  return true;
}

}  // namespace

constinit const Target kOpening = {"opening", seeds, run};

}  // namespace airlock::fuzz
