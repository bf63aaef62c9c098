#include "base/output_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "base/thread.h"
#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

using ::testing::HasSubstr;

class Output : public testing::Test {
 protected:
  std::string file(const std::string& name) const { return directory_.file(name); }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(directory_.path()), {}));
  }
  static Status write(const std::string& path, std::string_view text) {
    ASSIGN_OR_RETURN(const OutputFile file, OutputFile::open(path));
    return file.write(text);
  }
  static void expect_refused(const std::string& path, const std::string& word) {
    const auto opened = OutputFile::open(path, std::chrono::milliseconds(20));
    ASSERT_FALSE(opened.ok()) << path;
    EXPECT_EQ(opened.status().code(), StatusCode::kInvalidInput) << opened.status().to_string();
    EXPECT_THAT(opened.status().message(), HasSubstr(path));
    EXPECT_THAT(opened.status().message(), HasSubstr(word));
  }

  const TempDir directory_;
};

TEST_F(Output, replaces_a_file_and_leaves_nothing_else) {
  const std::string path = file("stats.json");
  const auto output = OutputFile::open(path);
  ASSERT_TRUE(output.ok()) << output.status().to_string();
  EXPECT_EQ(files(), 0U) << "it was only looked at";
  for (const char* text : {"one", "two", ""}) {
    ASSERT_TRUE(output->write(text).ok());
    EXPECT_EQ(read_all(path), text);
    EXPECT_EQ(files(), 1U);
  }
}

TEST_F(Output, lets_nobody_else_read_it_whatever_the_umask_is) {
  const std::string path = write_all(file("stats.json"), "old");
  std::filesystem::permissions(path, std::filesystem::perms(0644));
  const mode_t before = ::umask(0377);
  const Status written = write(path, "text");
  ::umask(before);
  ASSERT_TRUE(written.ok());
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_F(Output, joins_its_parts_of_any_length) {
  const std::string path = file("logits.npy");
  const std::string large(3 << 20, 'x');
  ASSERT_TRUE(OutputFile::open(path)->write({"head,", "", large, "tail"}).ok());
  EXPECT_EQ(read_all(path), "head," + large + "tail");
}

TEST_F(Output, that_is_not_committed_leaves_the_file_that_was_there) {
  const std::string path = write_all(file("t.csv"), "old");
  {
    const auto draft = OutputFile::open(path)->begin();
    ASSERT_TRUE(draft.ok());
    (*draft)->add(std::string(1 << 20, 'x'));
    EXPECT_EQ(read_all(path), "old");
  }
  EXPECT_EQ(read_all(path), "old");
  EXPECT_EQ(files(), 1U);
}

TEST_F(Output, that_finds_the_disk_full_leaves_the_file_that_was_there) {
  ::signal(SIGXFSZ, SIG_IGN);
  const std::string path = write_all(file("t.csv"), "old");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = write(path, std::string(1 << 20, 'x'));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr(path));
  EXPECT_EQ(read_all(path), "old");
  EXPECT_EQ(files(), 1U);
}

TEST_F(Output, follows_a_link_and_leaves_it) {
  std::filesystem::create_directory(file("elsewhere"));
  const std::string target = file("elsewhere/file");
  for (const char* text : {"made", "replaced"}) {  // at first the link leads to nothing
    const std::string link = file("link");
    std::filesystem::remove(link);
    std::filesystem::create_symlink("elsewhere/file", link);
    ASSERT_TRUE(write(link, text).ok());
    EXPECT_TRUE(std::filesystem::is_symlink(link));
    EXPECT_FALSE(std::filesystem::is_symlink(target));
    EXPECT_EQ(read_all(target), text);
  }
  EXPECT_EQ(files(), 2U);
}

TEST_F(Output, of_the_longest_name_is_written) {
  const std::string path = file(std::string(255, 'n'));
  ASSERT_TRUE(write(path, "text").ok());
  EXPECT_EQ(read_all(path), "text");
}

TEST_F(Output, is_refused_where_no_file_can_be) {
  expect_refused(file("absent/stats.json"), "there is no folder");
  expect_refused(file("absent/"), "directory");
  expect_refused(directory_.path().string(), "directory");
  write_all(file("file"), "text");
  expect_refused(file("file/below"), "Not a directory");
  std::filesystem::create_symlink("round", file("round"));
  expect_refused(file("round"), "links");
  expect_refused("", "");
}

TEST_F(Output, is_refused_where_one_may_not_write) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  const std::string path = write_all(file("file"), "kept");
  std::filesystem::permissions(path, std::filesystem::perms(0400));
  expect_refused(path, "Permission denied");
  std::filesystem::permissions(directory_.path(), std::filesystem::perms(0500));
  expect_refused(file("new"), "Permission denied");
  std::filesystem::permissions(directory_.path(), std::filesystem::perms(0700));
  EXPECT_EQ(read_all(path), "kept");
}

/// /dev/NAME; for root one of its own, at `path`: the machine's could be replaced by code that is
/// wrong.
std::string device(const std::string& name, unsigned minor, const std::string& path) {
  if (::geteuid() != 0) return "/dev/" + name;
  const bool made = ::mknod(path.c_str(), S_IFCHR | 0600, ::makedev(1, minor)) == 0;
  return made && UniqueFd(::open(path.c_str(), O_WRONLY | O_CLOEXEC)).valid() ? path : "";
}

TEST_F(Output, to_a_device_is_written_through) {
  const std::string null = device("null", 3, file("null"));
  const std::string full = device("full", 7, file("full"));
  if (null.empty() || full.empty()) GTEST_SKIP() << "no device can be made here";
  ASSERT_TRUE(write(null, "text").ok());
  EXPECT_TRUE(std::filesystem::is_character_file(null));
  const Status status = write(full, "text");
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr(full));
  EXPECT_TRUE(std::filesystem::is_character_file(full));
}

TEST_F(Output, to_a_pipe_is_written_through_however_slow_its_reader) {
  const std::string pipe = file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::string got;
  auto reader = start_thread("reader", [&] { got = read_all(pipe); });
  ASSERT_TRUE(reader.ok());
  const std::string large(1 << 20, 'x');  // more than a pipe holds
  {
    const auto output = OutputFile::open(pipe);
    ASSERT_TRUE(output.ok()) << output.status().to_string();
    EXPECT_TRUE(output->write(large).ok());
    EXPECT_TRUE(output->write("more").ok());
  }
  reader->join();
  EXPECT_EQ(got, large + "more");
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
}

TEST_F(Output, to_a_pipe_that_nobody_reads_is_refused) {
  const std::string pipe = file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_refused(pipe, "nobody");
}

TEST_F(Output, to_a_descriptor_goes_on_where_that_stands) {
  const std::string path = write_all(file("out"), "");
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(::write(fd.get(), "first,", 6), 6);
  const std::string link = file("link");
  std::filesystem::create_symlink("/proc/self/fd/" + std::to_string(fd.get()), link);
  ASSERT_TRUE(write("/dev/fd/" + std::to_string(fd.get()), "second,").ok());
  ASSERT_TRUE(write(link, "third,").ok());
  ASSERT_EQ(::write(fd.get(), "last", 4), 4);
  EXPECT_EQ(read_all(path), "first,second,third,last");
  const UniqueFd to_read(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  for (const int bad : {to_read.get(), 1000}) {
    const auto opened = OutputFile::open("/dev/fd/" + std::to_string(bad));
    EXPECT_THAT(opened.status().message(), HasSubstr("Bad file descriptor")) << bad;
  }
}

TEST_F(Output, that_became_something_else_is_not_replaced) {
  const std::string path = file("stats.json");
  const auto output = OutputFile::open(path);
  ASSERT_TRUE(output.ok());
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(output->write("text").code(), StatusCode::kInvalidInput);
  EXPECT_TRUE(std::filesystem::is_fifo(path));
}

TEST_F(Output, is_kept_apart_from_inputs_and_other_outputs) {
  const std::string prompt = write_all(file("prompt"), "1,2");
  const std::string link = file("link");
  std::filesystem::create_symlink("new", link);
  const NamedFile inputs[] = {{"--tokens-file", prompt}, {"--synthetic", ""}};
  const auto check = [&](const std::string& a, const std::string& b) {
    const NamedFile outputs[] = {{"--logits-out", a}, {"--stats-json", b}};
    return check_apart(outputs, inputs);
  };
  EXPECT_TRUE(check(file("a"), file("b")).ok());
  EXPECT_TRUE(check("/dev/null", "/dev/null").ok());
  EXPECT_TRUE(check("", "").ok());
  const Status over = check(file("./prompt"), "");
  EXPECT_EQ(over.code(), StatusCode::kUsage);
  EXPECT_THAT(over.message(), HasSubstr("--logits-out"));
  EXPECT_THAT(over.message(), HasSubstr("--tokens-file"));
  for (const auto& [a, b] : {std::pair(file("a"), file("./a")), std::pair(link, file("new"))}) {
    const Status twice = check(a, b);
    EXPECT_EQ(twice.code(), StatusCode::kUsage);
    EXPECT_THAT(twice.message(), HasSubstr("--stats-json would write to"));
  }
}

}  // namespace
}  // namespace airlock
