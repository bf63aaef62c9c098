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

}  // namespace
}  // namespace airlock
