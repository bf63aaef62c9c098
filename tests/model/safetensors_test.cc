#include "runtime/model/safetensors.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <fstream>
#include <random>
#include <string>

#include "base/process_limits.h"
#include "tests/model/temp_model.h"
#include "tests/support/in_child.h"

namespace airlock {
namespace {

using test::safetensors;
using testing::HasSubstr;

constexpr std::string_view kGood =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
    R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";

class Safetensors : public testing::Test {
 protected:
  Result<std::unique_ptr<SafetensorsFile>> open(std::string_view bytes) {
    test::write_file(path_, bytes);
    return SafetensorsFile::open(path_);
  }
  void expect_refused(std::string_view bytes, const std::string& word) {
    const auto file = open(bytes);
    ASSERT_FALSE(file.ok()) << bytes;
    EXPECT_EQ(file.status().code(), StatusCode::kInvalidInput);
    EXPECT_THAT(file.status().message(), HasSubstr(path_));
    EXPECT_THAT(file.status().message(), HasSubstr(word));
  }
  /// One tensor 'a' described by `entry`, with `data_bytes` of data.
  void expect_entry_refused(const std::string& entry, std::size_t data_bytes,
                            const std::string& word) {
    expect_refused(safetensors("{\"a\":" + entry + "}", data_bytes), word);
  }

  test::TempFolder folder_;
  std::string path_ = folder_.path("x.safetensors");
};

/// Of /proc/self/status, in KiB.
std::size_t status_kib(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key + ":")) return std::stoul(line.substr(key.size() + 1));
  }
  return 0;
}

TEST_F(Safetensors, reads_a_header_and_its_data) {
  std::string bytes = safetensors(kGood, 20);
  bytes[bytes.size() - 1] = 'z';
  const auto file = open(bytes);
  ASSERT_TRUE(file.ok()) << file.status().message();
  ASSERT_EQ((*file)->entries().size(), 2U);
  const SafetensorsEntry* b = (*file)->find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, DType::kBF16);
  EXPECT_THAT(b->shape, testing::ElementsAre(2, 3));
  EXPECT_EQ(b->bytes, 12U);
  EXPECT_EQ((*file)->find("c"), nullptr);
  std::byte last{};
  EXPECT_TRUE((*file)->read(*b, 11, {&last, 1}).ok());
  EXPECT_EQ(last, std::byte{'z'});
  EXPECT_EQ((*file)->mapped(*b).back(), std::byte{'z'});
  (*file)->release(*b);
  EXPECT_EQ((*file)->mapped(*b).back(), std::byte{'z'});
}

// Also of a process that keeps its memory out of swap: a model's file is not pinned.
TEST_F(Safetensors, lets_go_of_what_is_released) {
  constexpr std::size_t kBytes = std::size_t{8} << 20;
  test::write_file(
      path_,
      safetensors(R"({"a":{"dtype":"F32","shape":[2097152],"data_offsets":[0,8388608]}})", kBytes));
  EXPECT_TRUE(holds_in_a_child([this] {
    (void)keep_out_of_swap();
    const std::size_t locked_kib = status_kib("VmLck");
    const auto file = SafetensorsFile::open(path_);
    if (!file.ok() || status_kib("VmLck") >= locked_kib + kBytes / 1024) return false;
    const SafetensorsEntry& entry = *(*file)->find("a");
    const std::size_t before_kib = status_kib("RssFile");
    volatile unsigned sum = 0;
    for (std::size_t i = 0; i < kBytes; i += 512)
      sum = sum + std::to_integer<unsigned>((*file)->mapped(entry)[i]);
    const std::size_t read_kib = status_kib("RssFile");
    (*file)->release(entry);
    const std::size_t after_kib = status_kib("RssFile");
    constexpr std::size_t kHalf = kBytes / 2048;
    return read_kib > before_kib + kHalf && after_kib < read_kib - kHalf;
  }));
}

TEST_F(Safetensors, takes_unknown_dtypes_and_empty_tensors) {
  const auto file = open(safetensors(R"({"e":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},)"
                                     R"("q":{"dtype":"F4","shape":[3],"data_offsets":[0,2]},)"
                                     R"("s":{"dtype":"I64","shape":[],"data_offsets":[2,10]}})",
                                     10));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_FALSE((*file)->find("q")->dtype.has_value());
  EXPECT_FALSE((*file)->find("s")->dtype.has_value());
}

TEST_F(Safetensors, refuses_a_file_that_is_not_there_or_not_a_file) {
  EXPECT_FALSE(SafetensorsFile::open(folder_.path("none")).ok());
  EXPECT_FALSE(SafetensorsFile::open(folder_.path()).ok());
  ASSERT_EQ(::mkfifo(folder_.path("pipe").c_str(), 0600), 0);
  EXPECT_FALSE(SafetensorsFile::open(folder_.path("pipe")).ok());
}

TEST_F(Safetensors, refuses_every_truncation) {
  const std::string whole = safetensors(kGood, 20);
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    expect_refused(std::string_view(whole).substr(0, bytes), "");
  }
}

TEST_F(Safetensors, refuses_a_header_length_beyond_the_file) {
  std::string bytes = safetensors(kGood, 20);
  for (const std::uint64_t length :
       {bytes.size() - 7, std::size_t{1} << 40, ~std::size_t{0}, ~std::size_t{0} - 7}) {
    std::memcpy(bytes.data(), &length, sizeof length);
    expect_refused(bytes, "header length");
  }
}

TEST_F(Safetensors, refuses_a_header_over_the_limit) {
  constexpr std::uint64_t kLength = (std::uint64_t{100} << 20) + 1;
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &kLength, sizeof kLength);
  test::write_file(path_, bytes);
  std::filesystem::resize_file(path_, 8 + kLength);
  const auto file = SafetensorsFile::open(path_);
  ASSERT_FALSE(file.ok());
  EXPECT_THAT(file.status().message(), HasSubstr("at most"));
}

TEST_F(Safetensors, refuses_offsets_that_overlap_or_leave_holes) {
  const std::string header(kGood);
  expect_refused(safetensors(test::replaced(header, "[8,20]", "[4,16]"), 20), "overlapping");
  expect_refused(safetensors(test::replaced(header, "[8,20]", "[0,12]"), 12), "overlapping");
  expect_refused(safetensors(test::replaced(header, "[8,20]", "[10,22]"), 22), "hole");
  expect_refused(safetensors(header, 21), "behind the last tensor");
  expect_refused(safetensors("{}", 1), "behind the last tensor");
}

TEST_F(Safetensors, refuses_offsets_that_leave_the_file) {
  expect_entry_refused(R"({"dtype":"U8","shape":[9],"data_offsets":[0,9]})", 8, "do not lie");
  expect_entry_refused(R"({"dtype":"U8","shape":[1],"data_offsets":[-1,0]})", 8,
                       "'a.data_offsets.0' is -1");
  expect_entry_refused(R"({"dtype":"U8","shape":[8],"data_offsets":[8,0]})", 8, "do not lie");
  expect_entry_refused(R"({"dtype":"U8","shape":[8],"data_offsets":[0,18446744073709551615]})", 8,
                       "'a.data_offsets.1' is 1.8");
  expect_entry_refused(R"({"dtype":"U8","shape":[8],"data_offsets":[0,8.0]})", 8,
                       "'a.data_offsets.1' is 8");
}

TEST_F(Safetensors, refuses_sizes_that_disagree_with_the_shape) {
  expect_entry_refused(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})", 8, "ask for 12");
  expect_entry_refused(R"({"dtype":"F16","shape":[2],"data_offsets":[0,8]})", 8, "ask for 4");
  expect_entry_refused(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})", 8,
                       "more than");
  expect_entry_refused(R"({"dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8]})", 8,
                       "more than");
  expect_entry_refused(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", 8,
                       "'a.shape.0' is -2");
  expect_entry_refused(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})", 8,
                       "'a.shape.0' is 2");
}

TEST_F(Safetensors, refuses_malformed_headers) {
  for (const std::string header : {"", "[]", "7", "{", R"({"a":7})", R"({"a":{}})"}) {
    expect_refused(safetensors(header, 0), "");
  }
  expect_entry_refused(R"({"shape":[2],"data_offsets":[0,8]})", 8, "dtype");
  expect_entry_refused(R"({"dtype":5,"shape":[2],"data_offsets":[0,8]})", 8, "dtype");
  expect_entry_refused(R"({"dtype":"F32","data_offsets":[0,8]})", 8, "shape");
  expect_entry_refused(R"({"dtype":"F32","shape":"2","data_offsets":[0,8]})", 8, "shape");
  expect_entry_refused(R"({"dtype":"F32","shape":[2]})", 8, "data_offsets");
  expect_entry_refused(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4,8]})", 8, "data_offsets");
  const std::string a = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  expect_refused(safetensors("{" + a + "," + a + "}", 4), "twice");
  expect_refused(safetensors(std::string(50000, '['), 0), "nested");
}

TEST_F(Safetensors, says_so_when_the_file_shrank_after_it_was_opened) {
  const auto file = open(safetensors(kGood, 20));
  ASSERT_TRUE(file.ok());
  std::filesystem::resize_file(path_, 100);
  std::array<std::byte, 12> out{};
  const Status status = (*file)->read(*(*file)->find("b"), 0, out);
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(status.message(), HasSubstr("shorter"));
  EXPECT_TRUE((*file)->mapped(*(*file)->find("b")).empty());
}

TEST_F(Safetensors, survives_random_damage) {
  constexpr std::string_view kAlphabet = "0123456789-.eF\"[]{},:abBU\\ \xff";
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    std::string header(kGood);
    for (std::uint32_t edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % header.size();
      switch (random() % 3) {
        case 0:
          header[at] = kAlphabet[random() % kAlphabet.size()];
          break;
        case 1:
          header.erase(at, random() % 6);
          break;
        default:
          header.insert(at, 1, kAlphabet[random() % kAlphabet.size()]);
          break;
      }
      if (header.empty()) header.push_back('{');
    }
    const std::uint64_t file_bytes = 8 + header.size() + 20;
    const auto entries = parse_safetensors_header(header, file_bytes, "fuzz");
    if (!entries.ok()) {
      EXPECT_EQ(entries.status().code(), StatusCode::kInvalidInput);
      continue;
    }
    std::uint64_t covered = 8 + header.size();
    for (const SafetensorsEntry& entry : *entries) {
      EXPECT_LE(entry.file_offset + entry.bytes, file_bytes);
      covered += entry.bytes;
    }
    EXPECT_EQ(covered, file_bytes);
  }
}

}  // namespace
}  // namespace airlock
