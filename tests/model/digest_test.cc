#include "runtime/model/digest.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "runtime/model/model_source.h"
#include "tests/model/temp_model.h"

namespace airlock {
namespace {

const std::string kSingle = "model.safetensors";
const std::string kFake(64, 'a');

class Digest : public testing::Test {
 protected:
  Digest() {
    ::setenv("XDG_CACHE_HOME", cache_.path().c_str(), 1);
    test::copy_model("mqa-head-dim", folder_);
    settle(kSingle);
  }
  /// Makes a file look older than the span in which a change could go unseen.
  void settle(const std::string& name) {
    namespace fs = std::filesystem;
    fs::last_write_time(folder_.path(name),
                        fs::file_time_type::clock::now() - std::chrono::hours(1));
  }
  std::string digest() {
    const auto model = open_model_directory(folder_.path());
    CHECK(model.ok());
    const auto result = (*model)->digest();
    CHECK(result.ok());
    return *result;
  }
  std::vector<std::string> cache_files() {
    std::vector<std::string> files;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(cache_.path("airlock"), ignored)) {
      files.push_back(entry.path().string());
    }
    return files;
  }
  /// Puts another digest into the one cache file, so that a hit can be told from a computation.
  void forge() {
    ASSERT_EQ(cache_files().size(), 1U);
    const std::string path = cache_files()[0];
    test::write_file(path, kFake + test::read_file(path).substr(64));
  }

  test::TempFolder cache_;
  test::TempFolder folder_;
};

TEST_F(Digest, sha256_is_that_of_the_standard) {
  Sha256 empty;
  EXPECT_EQ(empty.finish(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 abc;
  abc.add("a");
  abc.add("bc");
  EXPECT_EQ(abc.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_F(Digest, changes_with_one_byte_of_the_weights) {
  const std::string before = digest();
  std::string bytes = test::read_file(folder_.path(kSingle));
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  test::write_file(folder_.path(kSingle), bytes);
  settle(kSingle);
  const std::string after = digest();
  EXPECT_NE(before, after);
  EXPECT_EQ(after.size(), 64U);
}

TEST_F(Digest, changes_with_the_config) {
  const std::string before = digest();
  const std::string config = test::read_file(folder_.path("config.json"));
  test::write_file(folder_.path("config.json"),
                   test::replaced(config, "\"rope_theta\": 10000.0", "\"rope_theta\": 10001.0"));
  EXPECT_NE(before, digest());
}

TEST_F(Digest, does_not_depend_on_place_spelling_or_what_is_ignored) {
  const std::string before = digest();
  const std::string config = test::read_file(folder_.path("config.json"));
  test::write_file(folder_.path("config.json"),
                   test::replaced(config, "\"torch_dtype\"", "\"bos_token_id\": 1, \"dtype\""));
  EXPECT_EQ(before, digest());
  const auto elsewhere = open_model_directory(std::string(AIRLOCK_TEST_MODELS) + "/mqa-head-dim");
  ASSERT_TRUE(elsewhere.ok());
  EXPECT_EQ(before, *(*elsewhere)->digest());
}

TEST_F(Digest, is_taken_from_the_cache_the_second_time) {
  digest();
  forge();
  EXPECT_EQ(digest(), kFake);
}

TEST_F(Digest, cache_is_private) {
  digest();
  ASSERT_EQ(cache_files().size(), 1U);
  struct stat info {};
  ASSERT_EQ(::stat(cache_files()[0].c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_F(Digest, cache_is_not_used_when_the_file_changed) {
  const std::string before = digest();
  forge();
  namespace fs = std::filesystem;
  fs::last_write_time(folder_.path(kSingle),
                      fs::file_time_type::clock::now() - std::chrono::hours(2));
  EXPECT_EQ(digest(), before);
  forge();
  fs::copy_file(folder_.path(kSingle), folder_.path("copy"));
  fs::last_write_time(folder_.path("copy"), fs::last_write_time(folder_.path(kSingle)));
  fs::rename(folder_.path("copy"), folder_.path(kSingle));  // another inode
  EXPECT_EQ(digest(), before);
}

TEST_F(Digest, files_written_a_moment_ago_are_not_remembered) {
  const std::string bytes = test::read_file(folder_.path(kSingle));
  test::write_file(folder_.path(kSingle), bytes);
  digest();
  EXPECT_TRUE(cache_files().empty());
}

TEST_F(Digest, an_unreadable_cache_is_ignored) {
  const std::string before = digest();
  const std::string path = cache_files().at(0);
  for (const std::string& text : {std::string(), std::string("x"), std::string(64, 'a'),
                                  std::string(64, 'z') + "\n", std::string(3 << 20, 'a')}) {
    test::write_file(path, text);
    EXPECT_EQ(digest(), before);
  }
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  EXPECT_EQ(digest(), before);
}

TEST_F(Digest, works_without_a_place_for_a_cache) {
  const std::string before = digest();
  ::setenv("XDG_CACHE_HOME", "/proc/nowhere", 1);
  EXPECT_EQ(digest(), before);
  ::unsetenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string kept = home != nullptr ? home : "/";
  ::unsetenv("HOME");
  EXPECT_TRUE(DigestCache("x").path().empty());
  EXPECT_EQ(digest(), before);
  ::setenv("HOME", kept.c_str(), 1);
}

}  // namespace
}  // namespace airlock
