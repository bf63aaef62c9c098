#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

using ::testing::HasSubstr;

class WriteFile : public testing::Test {
 protected:
  const std::filesystem::path& folder() const { return directory_.path(); }

 private:
  const TempDir directory_;
};

TEST_F(WriteFile, replaces_a_file_and_leaves_nothing_else) {
  const auto path = folder() / "stats.json";
  ASSERT_TRUE(write_file_atomically(path.string(), "one").ok());
  ASSERT_TRUE(write_file_atomically(path.string(), "two").ok());
  EXPECT_EQ(read_all(path), "two");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder()), {}), 1);
}

TEST_F(WriteFile, lets_nobody_else_read_it) {
  const auto path = folder() / "stats.json";
  ASSERT_TRUE(write_file_atomically(path.string(), "text").ok());
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_F(WriteFile, names_the_path_it_cannot_write) {
  const Status status =
      write_file_atomically((folder() / "absent" / "stats.json").string(), "text");
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(status.message(), HasSubstr("absent"));
}

TEST_F(WriteFile, writes_to_a_device_and_does_not_replace_it) {
  ASSERT_TRUE(write_file_atomically("/dev/null", "text").ok());
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST_F(WriteFile, leaves_the_old_text_where_the_path_is_a_folder) {
  EXPECT_FALSE(write_file_atomically(folder().string(), "text").ok());
  EXPECT_TRUE(std::filesystem::is_directory(folder()));
}

TEST_F(WriteFile, joins_its_parts) {
  const auto path = folder() / "logits.npy";
  ASSERT_TRUE(write_file_atomically(path.string(), {"head,", "", "body"}).ok());
  EXPECT_EQ(read_all(path), "head,body");
}

TEST(OsError, tells_what_is_used_up_from_what_is_wrong) {
  for (const int error : {ENOSPC, EDQUOT, EFBIG, ENOMEM, EMFILE, ENFILE}) {
    EXPECT_EQ(os_error("write f", error).code(), StatusCode::kResourceExhausted) << error;
  }
  const Status refused = os_error("write f", EACCES);
  EXPECT_EQ(refused.code(), StatusCode::kInvalidInput);
  EXPECT_EQ(refused.message(), "cannot write f: Permission denied");
}

TEST_F(WriteFile, is_told_from_others_by_name_and_by_what_it_is) {
  const std::string path = (folder() / "file").string();
  const std::string link = (folder() / "link").string();
  const std::string other = (folder() / "other").string();
  ASSERT_TRUE(write_file_atomically(path, "text").ok());
  std::filesystem::create_symlink(path, link);
  EXPECT_TRUE(is_same_file(path, path));
  EXPECT_TRUE(is_same_file(path, link));
  EXPECT_TRUE(is_same_file(path, (folder() / "." / "file").string()));
  EXPECT_FALSE(is_same_file(path, other));
  // Of files that are not there yet.
  EXPECT_TRUE(is_same_file(other, (folder() / "." / "other").string()));
  EXPECT_FALSE(is_same_file(other, (folder() / "another").string()));
  EXPECT_FALSE(is_same_file("/dev/null", "/dev/null"));
}

}  // namespace
}  // namespace airlock
