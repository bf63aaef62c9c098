#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "base/check.h"
#include "runtime/channel/frame.h"

namespace airlock {
namespace {

using Bytes = std::vector<std::byte>;

constexpr std::uint64_t kEpoch = 0x1122334455667788;
constexpr std::uint64_t kSequence = 9;

Bytes valid_frame() {
  const std::vector<std::size_t> tensor_bytes = {100, 0, std::size_t{1} << 30};
  const Bytes header(40, std::byte{7});
  return encode_frame(kEpoch, kSequence, tensor_bytes, header);
}

/// What is accepted lies within the limits and is the encoding of what was read.
void decode_anything(std::span<const std::byte> bytes) {
  const auto frame = decode_frame(bytes, {kEpoch, kSequence});
  if (!frame.ok()) return;
  CHECK(check_tensor_sizes(frame->tensor_bytes).ok());
  const Bytes again =
      encode_frame(frame->epoch, frame->sequence, frame->tensor_bytes, frame->rpc_header);
  CHECK(again == Bytes(bytes.begin(), bytes.end()));
}

TEST(FrameFuzz, survives_random_bytes) {
  std::mt19937 random(1);
  for (int round = 0; round < 50000; ++round) {
    Bytes bytes(random() % 300);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 0xffU);
    decode_anything(bytes);
  }
}

TEST(FrameFuzz, survives_every_single_byte_and_every_cut) {
  const Bytes whole = valid_frame();
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (unsigned value = 0; value < 256; ++value) {
      Bytes bytes = whole;
      bytes[at] = static_cast<std::byte>(value);
      decode_anything(bytes);
    }
    decode_anything(std::span(whole).first(at));
  }
}

TEST(FrameFuzz, survives_several_damages_at_once) {
  std::mt19937 random(2);
  const Bytes whole = valid_frame();
  for (int round = 0; round < 100000; ++round) {
    Bytes bytes = whole;
    for (std::size_t left = random() % 4 + 1; left > 0; --left) {
      // Most of the interesting fields lie behind epoch and sequence.
      const std::size_t at = 16 + random() % (bytes.size() - 16);
      bytes[at] = static_cast<std::byte>(random() % 2 == 0 ? 0xffU : random() & 0xffU);
    }
    bytes.resize(bytes.size() - random() % 3);
    decode_anything(bytes);
  }
}

TEST(PreambleFuzz, accepts_nothing_but_the_expected_bytes) {
  const BulkPreamble expected{kEpoch, kSequence, 2, 1U << 20};
  const auto whole = encode_preamble(expected);
  EXPECT_TRUE(check_preamble(whole, expected).ok());
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      auto bytes = whole;
      bytes[at] ^= static_cast<std::byte>(1U << bit);
      EXPECT_EQ(check_preamble(bytes, expected).code(), StatusCode::kProtocolError);
    }
    EXPECT_FALSE(check_preamble(std::span(whole).first(at), expected).ok());
  }
}

}  // namespace
}  // namespace airlock
