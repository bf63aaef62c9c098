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
            "0200000000000000"
            "aabb");
}

TEST(Opening, what_is_behind_the_header_begins_at_the_next_multiple_of_64) {
  std::vector<std::byte> frame(inline_start(kHeader.size()), std::byte{0xee});
  ASSERT_EQ(frame.size(), 64u);
  write_opening(kExpected, kHeader, frame);
  frame.push_back(std::byte{0xcc});
  EXPECT_EQ(to_hex(frame), to_hex(good_frame()) + std::string(2 * (64 - 26), '0') + "cc");
  const auto opened = decode_opening(frame, kExpected);
  ASSERT_TRUE(opened.ok()) << opened.status().to_string();
  EXPECT_TRUE(std::ranges::equal(opened->header, kHeader));
  EXPECT_EQ(to_hex({opened->behind.begin(), opened->behind.end()}), "cc");
}

TEST(Opening, refuses_what_does_not_begin_there) {
  std::vector<std::byte> frame(64);
  write_opening(kExpected, kHeader, frame);
  // Nothing is behind the gap, or the gap is none.
  EXPECT_EQ(code_of(frame), StatusCode::kProtocolError);
  EXPECT_EQ(code_of(std::span(frame).first(27)), StatusCode::kProtocolError);
  frame.push_back(std::byte{1});
  EXPECT_EQ(code_of(frame), StatusCode::kOk);
  for (std::size_t at = 26; at < 64; ++at) {
    auto spoiled = frame;
    spoiled[at] = std::byte{1};
    EXPECT_EQ(code_of(spoiled), StatusCode::kProtocolError) << at;
  }
}

TEST(Opening, gives_the_header_back) {
  const auto frame = good_frame();
  const auto header = decode_opening(frame, kExpected);
  ASSERT_TRUE(header.ok()) << header.status().to_string();
  EXPECT_TRUE(std::ranges::equal(header->header, kHeader));
  EXPECT_TRUE(header->behind.empty());
  EXPECT_TRUE(decode_opening(encode_opening(kExpected, {}), kExpected).value().header.empty());
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
