#include "runtime/channel/frame.h"

#include <gtest/gtest.h>

#include <string>

namespace airlock {
namespace {

std::vector<std::byte> bytes_of(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

const FrameExpectation kExpected{0x1122334455667788, 7};
const std::vector<std::size_t> kSizes{65536, 0, std::size_t{4} << 30};
const std::vector<std::byte> kRpc{std::byte{0xaa}, std::byte{0xbb}};

std::vector<std::byte> good_frame() { return encode_frame(kExpected.epoch, 7, kSizes, kRpc); }

StatusCode code_of(std::span<const std::byte> bytes) {
  return decode_frame(bytes, kExpected).status().code();
}

TEST(Frame, bytes_are_the_golden_ones) {
  EXPECT_EQ(good_frame(), bytes_of("8877665544332211"
                                   "0700000000000000"
                                   "02000000"
                                   "03000000"
                                   "0000010000000000"
                                   "0000000000000000"
                                   "0000000001000000"
                                   "00000000000000000000000000000000"
                                   "00000000000000000000000000000000"
                                   "0000000000000000"
                                   "aabb"));
}

TEST(Frame, preamble_bytes_are_the_golden_ones) {
  const auto bytes = encode_preamble({0x1122334455667788, 7, 2, 0x0a000000});
  EXPECT_EQ(std::vector<std::byte>(bytes.begin(), bytes.end()), bytes_of("41495242554c4b01"
                                                                         "8877665544332211"
                                                                         "0700000000000000"
                                                                         "0200000000000000"
                                                                         "0000000a00000000"));
}

TEST(Frame, decodes_what_it_encoded) {
  const auto frame = decode_frame(good_frame(), kExpected);
  ASSERT_TRUE(frame.ok()) << frame.status().to_string();
  EXPECT_EQ(*frame, (FrameHeader{kExpected.epoch, 7, kSizes, kRpc}));
}

TEST(Frame, refuses_every_truncation) {
  const auto frame = good_frame();
  for (std::size_t size = 0; size < frame.size(); ++size) {
    EXPECT_EQ(code_of({frame.data(), size}), StatusCode::kProtocolError) << size;
  }
}

TEST(Frame, refuses_bytes_behind_the_header) {
  auto frame = good_frame();
  frame.push_back(std::byte{0});
  EXPECT_EQ(code_of(frame), StatusCode::kProtocolError);
  EXPECT_EQ(code_of(std::vector<std::byte>(limits::kHeaderBytes + 1)), StatusCode::kProtocolError);
}

TEST(Frame, refuses_each_wrong_field) {
  struct Case {
    std::size_t at;
    int value;
  };
  for (const auto& [at, value] :
       {Case{0, 1}, Case{8, 6}, Case{16, 3}, Case{19, 255}, Case{20, 9}, Case{20, 2}, Case{23, 255},
        Case{29, 255}, Case{80, 1}, Case{40, 1}}) {
    auto frame = good_frame();
    frame[at] = static_cast<std::byte>(value);
    EXPECT_EQ(code_of(frame), StatusCode::kProtocolError) << at;
  }
}

TEST(Frame, refuses_more_than_the_message_limit_in_all) {
  const std::vector<std::size_t> sizes(3, limits::kMaxTensorBytes);
  EXPECT_EQ(code_of(encode_frame(kExpected.epoch, 7, sizes, kRpc)), StatusCode::kProtocolError);
  EXPECT_EQ(check_tensor_sizes(sizes).code(), StatusCode::kInvalidInput);
  EXPECT_EQ(check_tensor_sizes(std::vector<std::size_t>(9, 1)).code(), StatusCode::kInvalidInput);
  EXPECT_TRUE(check_tensor_sizes(std::vector<std::size_t>(2, limits::kMaxTensorBytes)).ok());
}

TEST(Frame, error_does_not_name_the_right_epoch) {
  auto frame = good_frame();
  frame[0] = std::byte{0};
  const std::string text = decode_frame(frame, kExpected).status().message();
  EXPECT_EQ(text.find(std::to_string(kExpected.epoch)), std::string::npos);
}

TEST(Frame, preamble_must_match_in_every_byte) {
  const BulkPreamble expected{1, 2, 3, 4};
  const auto good = encode_preamble(expected);
  EXPECT_TRUE(check_preamble(good, expected).ok());
  for (std::size_t i = 0; i < good.size(); ++i) {
    auto bad = good;
    bad[i] ^= std::byte{0x80};
    EXPECT_EQ(check_preamble(bad, expected).code(), StatusCode::kProtocolError) << i;
  }
  EXPECT_EQ(check_preamble({good.data(), 39}, expected).code(), StatusCode::kProtocolError);
}

}  // namespace
}  // namespace airlock
