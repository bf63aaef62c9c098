#include "shm/segment_room.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace airlock {
namespace {

std::size_t file_count() {
  std::size_t count = 0;
  const std::string own = "airlock-" + std::to_string(::geteuid()) + "-";
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
    count += entry.path().filename().string().starts_with(own) ? 1 : 0;
  return count;
}

TEST(SegmentRoom, is_there_for_a_page) {
  const Status status = check_segment_room(4096, 2, "--ring off");
  EXPECT_TRUE(status.ok()) << status.to_string();
}

TEST(SealedRoom, is_there_for_a_page_and_lacks_for_more_than_any_machine_has) {
  const Status status = check_sealed_room(4096, 2, "--ring off");
  EXPECT_TRUE(status.ok()) << status.to_string();
  const Status lacking = check_sealed_room(std::size_t{1} << 60, 2, "--ring off");
  EXPECT_EQ(lacking.code(), StatusCode::kResourceExhausted);
  for (const char* word : {"too little memory", "need 2147483648.0 GiB", "are free here",
                           "--ring-slots", "--ring off"})
    EXPECT_NE(lacking.message().find(word), std::string::npos) << lacking.to_string();
}

TEST(SegmentRoom, lacks_for_more_than_any_machine_has) {
  const auto room = std::filesystem::space("/dev/shm");
  if (room.capacity == 0) GTEST_SKIP() << "/dev/shm has no limit";
  const std::size_t before = file_count();
  const Status status = check_segment_room(std::size_t{1} << 60, 2, "--ring off");
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  for (const char* word :
       {"/dev/shm", "it needs 2147483648.0 GiB", "free are", "--ring-slots", "--ring off"})
    EXPECT_NE(status.message().find(word), std::string::npos) << status.to_string();
  EXPECT_LE(file_count(), before);
}

TEST(RoomForAll, is_advised_on_where_it_lacks) {
  constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
  EXPECT_EQ(segment_room_advice(64 * kMiB, 64 * kMiB, 8), "");
  EXPECT_EQ(segment_room_advice(64 * kMiB, std::nullopt, 8), "");
  EXPECT_EQ(sealed_room_advice(64 * kMiB, 65 * kMiB, 8), "");
  const std::string shm = segment_room_advice(1280 * kMiB, 64 * kMiB, 8);
  for (const char* word : {"8 sessions (--max-clients)", "up to 1.2 GiB of /dev/shm",
                           "64.0 MiB are free", "--shm-size", "sizeLimit", "remount,size="})
    EXPECT_NE(shm.find(word), std::string::npos) << shm;
  const std::string memory = sealed_room_advice(1280 * kMiB, 64 * kMiB, 8);
  for (const char* word : {"up to 1.2 GiB of memory", "64.0 MiB are free", "limits.memory"})
    EXPECT_NE(memory.find(word), std::string::npos) << memory;
}

}  // namespace
}  // namespace airlock
