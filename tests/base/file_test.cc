#include "base/file.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

class SameFile : public testing::Test {
 protected:
  const std::filesystem::path& folder() const { return directory_.path(); }

 private:
  const TempDir directory_;
};

TEST(OsError, tells_what_is_used_up_from_what_is_wrong) {
  for (const int error : {ENOSPC, EDQUOT, EFBIG, ENOMEM, EMFILE, ENFILE}) {
    EXPECT_EQ(os_error("write f", error).code(), StatusCode::kResourceExhausted) << error;
  }
  const Status refused = os_error("write f", EACCES);
  EXPECT_EQ(refused.code(), StatusCode::kInvalidInput);
  EXPECT_EQ(refused.message(), "cannot write f: Permission denied");
}

TEST_F(SameFile, is_told_from_others_by_name_and_by_what_it_is) {
  const std::string path = (folder() / "file").string();
  const std::string link = (folder() / "link").string();
  const std::string other = (folder() / "other").string();
  write_all(path, "text");
  std::filesystem::create_symlink(path, link);
  EXPECT_TRUE(is_same_file(path, path));
  EXPECT_TRUE(is_same_file(path, link));
  EXPECT_TRUE(is_same_file(path, (folder() / "." / "file").string()));
  EXPECT_FALSE(is_same_file(path, other));
  // Of files that are not there yet.
  EXPECT_TRUE(is_same_file(other, (folder() / "." / "other").string()));
  EXPECT_FALSE(is_same_file(other, (folder() / "another").string()));
  EXPECT_FALSE(is_same_file("/dev/null", "/dev/null"));
  // Of a link to what is not there yet.
  const std::string to_other = (folder() / "to-other").string();
  std::filesystem::create_symlink("other", to_other);
  EXPECT_TRUE(is_same_file(to_other, other));
  EXPECT_FALSE(is_same_file(to_other, path));
}

TEST_F(SameFile, is_found_at_the_end_of_links) {
  const auto link = [&](const char* to, const char* name) {
    std::filesystem::create_symlink(to, folder() / name);
    return (folder() / name).string();
  };
  const std::string end = (folder() / "end").string();
  EXPECT_EQ(follow_links(end).value(), end);
  link("end", "second");
  const std::string first = link("second", "first");
  EXPECT_EQ(follow_links(first).value(), end);
  write_all(end, "text");
  EXPECT_EQ(follow_links(first).value(), end);
  EXPECT_EQ(follow_links(link(end.c_str(), "whole")).value(), end);
  EXPECT_EQ(follow_links("/dev/stdout").value(), "/proc/self/fd/1");
  EXPECT_EQ(follow_links(link("round", "round")).status().code(), StatusCode::kInvalidInput);
}

}  // namespace
}  // namespace airlock
