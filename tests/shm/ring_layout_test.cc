#include "shm/ring_layout.h"

#include <algorithm>

#include "tests/shm/ring_fixture.h"

namespace airlock {
namespace {

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte b : bytes) {
    text += "0123456789abcdef"[std::to_integer<int>(b) >> 4];
    text += "0123456789abcdef"[std::to_integer<int>(b) & 15];
  }
  return text;
}

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

TEST(RingLayout, new_ring_is_a_golden_superblock_and_zeros) {
  TestRing ring;
  ASSERT_EQ(ring.segment->bytes().size(), 4096u + 4096 + 8 * 4096 + 8 * 4096);
  EXPECT_EQ(hex(ring.segment->bytes().first(64)),
            "41524c4b52494e47"  // "ARLKRING"
            "02000000"
            "08000000"  // layout version, slots
            "00100000"
            "00100000"          // payload and header bytes of a slot
            "efcdab8967452301"  // epoch
            "0020010000000000"  // total bytes
            "000000000000000000000000000000000000000000000000");
  EXPECT_TRUE(all_zero(ring.segment->bytes().subspan(64)));
}

TEST(RingLayout, second_part_of_a_message_has_golden_bytes) {
  TestRing ring;
  ASSERT_TRUE(send(*ring.producer, "head", {"first", "other"}).ok());
  const auto bytes = ring.segment->bytes();
  EXPECT_EQ(hex(bytes.subspan(4096 + 128, 4)),
            "01000000");  // flag of slot 1: the consumer's first turn
  EXPECT_TRUE(all_zero(bytes.subspan(4096 + 132, 60)));
  EXPECT_EQ(hex(bytes.subspan(4096 + 128 + 64, 64)),
            "efcdab8967452301"  // epoch
            "0200000000000000"  // sequence
            "00000000"
            "01000000"
            "02000000"
            "00000000"  // header bytes, part 1 of 2, reserved
            "0000000000000000000000000000000000000000000000000000000000000000");
  EXPECT_EQ(to_text(bytes.subspan(8192, 4)), "head");
  EXPECT_TRUE(all_zero(bytes.subspan(8196, 4092)));
  EXPECT_EQ(to_text(bytes.subspan(8192 + 8 * 4096 + 4096, 5)), "other");
  EXPECT_EQ(hex(bytes.subspan(512, 4)), "01000000");  // one message woke
}

TEST(RingLayout, header_of_earlier_message_is_overwritten_to_a_multiple_of_64) {
  TestRing ring;
  ASSERT_TRUE(send(*ring.producer, std::string(64, 'x'), {""}).ok());
  release_all(*ring.consumer, ring.consumer->receive(soon(), {}).value());
  ASSERT_TRUE(send(*ring.producer, "y", {""}).ok());
  EXPECT_EQ(to_text(ring.segment->bytes().subspan(8192, 64)), "y" + std::string(63, '\0'));
}

TEST(RingLayout, refuses_geometry_outside_the_limits) {
  for (const RingGeometry bad :
       {RingGeometry{0, 4096}, RingGeometry{7, 4096}, RingGeometry{1025, 4096}, RingGeometry{8, 0},
        RingGeometry{8, 4095}, RingGeometry{8, 6000}, RingGeometry{8, (64u << 20) + 4096},
        RingGeometry{0xFFFFFFFF, 0xFFFFF000}}) {
    EXPECT_EQ(ring_segment_bytes(bad).status().code(), StatusCode::kInvalidInput);
  }
  EXPECT_EQ(ring_segment_bytes({1024, 64u << 20}).value(),
            4096u + 1024 * 128 + 1024 * 4096 + (std::size_t{1024} << 26));
}

}  // namespace
}  // namespace airlock
