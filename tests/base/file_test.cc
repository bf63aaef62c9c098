#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace airlock {
namespace {

using ::testing::HasSubstr;

class WriteFile : public testing::Test {
 protected:
  WriteFile() {
    std::string name = (std::filesystem::temp_directory_path() / "airlock-report-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~WriteFile() override { std::filesystem::remove_all(folder_); }

  std::string read(const std::filesystem::path& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  std::filesystem::path folder_;
};

TEST_F(WriteFile, replaces_a_file_and_leaves_nothing_else) {
  const auto path = folder_ / "stats.json";
  ASSERT_TRUE(write_file_atomically(path.string(), "one").ok());
  ASSERT_TRUE(write_file_atomically(path.string(), "two").ok());
  EXPECT_EQ(read(path), "two");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(WriteFile, lets_nobody_else_read_it) {
  const auto path = folder_ / "stats.json";
  ASSERT_TRUE(write_file_atomically(path.string(), "text").ok());
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_F(WriteFile, names_the_path_it_cannot_write) {
  const Status status = write_file_atomically((folder_ / "absent" / "stats.json").string(), "text");
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(status.message(), HasSubstr("absent"));
}

TEST_F(WriteFile, writes_to_a_device_and_does_not_replace_it) {
  ASSERT_TRUE(write_file_atomically("/dev/null", "text").ok());
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST_F(WriteFile, leaves_the_old_text_where_the_path_is_a_folder) {
  EXPECT_FALSE(write_file_atomically(folder_.string(), "text").ok());
  EXPECT_TRUE(std::filesystem::is_directory(folder_));
}

TEST_F(WriteFile, joins_its_parts) {
  const auto path = folder_ / "logits.npy";
  ASSERT_TRUE(write_file_atomically(path.string(), {"head,", "", "body"}).ok());
  EXPECT_EQ(read(path), "head,body");
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
  const std::string path = (folder_ / "file").string();
  const std::string link = (folder_ / "link").string();
  const std::string other = (folder_ / "other").string();
  ASSERT_TRUE(write_file_atomically(path, "text").ok());
  std::filesystem::create_symlink(path, link);
  EXPECT_TRUE(is_same_file(path, path));
  EXPECT_TRUE(is_same_file(path, link));
  EXPECT_TRUE(is_same_file(path, (folder_ / "." / "file").string()));
  EXPECT_FALSE(is_same_file(path, other));
  // Of files that are not there yet.
  EXPECT_TRUE(is_same_file(other, (folder_ / "." / "other").string()));
  EXPECT_FALSE(is_same_file(other, (folder_ / "another").string()));
  EXPECT_FALSE(is_same_file("/dev/null", "/dev/null"));
}

}  // namespace
}  // namespace airlock
