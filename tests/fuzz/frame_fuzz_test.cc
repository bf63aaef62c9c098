#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "base/check.h"
#include "runtime/channel/frame.h"

namespace airlock {
namespace {

using Bytes = std::vector<std::byte>;

constexpr Opening kExpected{0x1122334455667788, 9};

Bytes valid_frame() { return encode_opening(kExpected, Bytes(40, std::byte{7})); }
Bytes valid_frame_with_more() {
  const Bytes header(30, std::byte{7});
  Bytes frame(inline_start(header.size()) + 5, std::byte{3});
  write_opening(kExpected, header, std::span(frame).first(inline_start(header.size())));
  return frame;
}

/// What is accepted is the encoding of what was read.
void decode_anything(std::span<const std::byte> bytes) {
  const auto header = decode_opening(bytes, kExpected);
  if (!header.ok()) return;
  Bytes again = encode_opening(kExpected, header->header);
  if (!header->behind.empty()) {
    again.resize(inline_start(header->header.size()));
    again.insert(again.end(), header->behind.begin(), header->behind.end());
  }
  CHECK(again == Bytes(bytes.begin(), bytes.end()));
}

TEST(OpeningFuzz, survives_random_bytes) {
  std::mt19937 random(1);
  for (int round = 0; round < 50000; ++round) {
    Bytes bytes(random() % 300);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 0xffU);
    decode_anything(bytes);
  }
}

TEST(OpeningFuzz, survives_every_single_byte_and_every_cut) {
  for (const Bytes& whole : {valid_frame(), valid_frame_with_more()}) {
    for (std::size_t at = 0; at < whole.size(); ++at) {
      for (unsigned value = 0; value < 256; ++value) {
        Bytes bytes = whole;
        bytes[at] = static_cast<std::byte>(value);
        decode_anything(bytes);
      }
      decode_anything(std::span(whole).first(at));
    }
  }
}

}  // namespace
}  // namespace airlock
