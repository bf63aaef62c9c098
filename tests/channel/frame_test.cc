#include "runtime/channel/frame.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <string>

#include "tests/proto/hex.h"

namespace airlock {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr Opening kExpected{0x1122334455667788, 7};
const std::vector<std::byte> kHeader{std::byte{0xaa}, std::byte{0xbb}};

std::vector<std::byte> good_frame() { return encode_opening(kExpected, kHeader); }

StatusCode code_of(std::span<const std::byte> frame) {
  return decode_opening(frame, kExpected).status().code();
}

// A change of these bytes is a change of the protocol: raise its version and docs/PROTOCOL.md in
// the same commit.
TEST(Opening, bytes_are_the_golden_ones) {
  EXPECT_EQ(to_hex(good_frame()),
            "8877665544332211"
            "0700000000000000"
            "aabb");
}

TEST(Opening, gives_the_header_back) {
  const auto frame = good_frame();
  const auto header = decode_opening(frame, kExpected);
  ASSERT_TRUE(header.ok()) << header.status().to_string();
  EXPECT_TRUE(std::ranges::equal(*header, kHeader));
  EXPECT_TRUE(decode_opening(encode_opening(kExpected, {}), kExpected).value().empty());
}

TEST(Opening, refuses_every_cut) {
  const auto frame = good_frame();
  for (std::size_t size = 0; size < kOpeningBytes; ++size) {
    EXPECT_EQ(code_of({frame.data(), size}), StatusCode::kProtocolError) << size;
  }
}

TEST(Opening, must_match_in_every_bit) {
  for (std::size_t at = 0; at < kOpeningBytes; ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      auto frame = good_frame();
      frame[at] ^= static_cast<std::byte>(1U << bit);
      EXPECT_EQ(code_of(frame), StatusCode::kProtocolError) << at;
    }
  }
}

TEST(Opening, error_does_not_name_the_right_epoch) {
  auto frame = good_frame();
  frame[0] = std::byte{0};
  EXPECT_THAT(decode_opening(frame, kExpected).status().message(),
              Not(HasSubstr(std::to_string(kExpected.epoch))));
}

}  // namespace
}  // namespace airlock
