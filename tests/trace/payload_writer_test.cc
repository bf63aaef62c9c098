#include "runtime/trace/payload_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "runtime/model/digest.h"
#include "runtime/model/safetensors.h"
#include "runtime/trace/trace.h"
#include "tests/support/synthesise_records.h"
#include "tests/support/temp_dir.h"
#include "tests/trace/golden_trace.h"

namespace airlock {
namespace {

constexpr PayloadNeed kSmall{4096, 1 << 20, 1000};

Tensor numbered(const TensorDesc& desc, unsigned start) {
  Tensor tensor(desc);
  for (std::byte& byte : tensor.mutable_view().bytes()) byte = static_cast<std::byte>(start++ * 7);
  return tensor;
}

std::string digest_of(std::span<const std::byte> bytes) {
  Sha256 digest;
  digest.add(bytes);
  return digest.finish();
}

TEST(PayloadWriter, a_file_is_readable_after_each_tensor) {
  const TempDir dir;
  const std::string path = dir.file("p.safetensors");
  ASSERT_TRUE(PayloadWriter::create(path, {1 << 20, 0, 3}).ok());  // an older one, longer
  ASSERT_EQ(::chmod(path.c_str(), 0644), 0);
  auto writer = PayloadWriter::create(path, kSmall);
  ASSERT_TRUE(writer.ok()) << writer.status().to_string();
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  const TensorDesc descs[] = {{DType::kI32, {5}},
                              {DType::kBF16, {3, 7}},
                              {DType::kF16, {1, 1}},
                              {DType::kF32, {2, 3, 4}},
                              {DType::kF32, {700, 500}}};  // more than one copy
  std::vector<std::string> names;
  for (const TensorDesc& desc : descs) {
    const Tensor tensor = numbered(desc, static_cast<unsigned>(names.size()));
    names.push_back(payload_tensor_name(names.size(), TraceSide::kOutput, 1));
    const auto digest = (*writer)->add(names.back(), tensor.view());
    ASSERT_TRUE(digest.ok()) << digest.status().to_string();
    EXPECT_EQ(*digest, digest_of(tensor.view().bytes()));
    const auto file = SafetensorsFile::open(path);
    ASSERT_TRUE(file.ok()) << file.status().to_string();
    ASSERT_EQ((*file)->entries().size(), names.size());
    for (const std::string& name : names) EXPECT_NE((*file)->find(name), nullptr) << name;
    const SafetensorsEntry* entry = (*file)->find(names.back());
    const auto bytes = (*file)->mapped(*entry);
    ASSERT_EQ(bytes.size(), desc.bytes());
    EXPECT_EQ(std::memcmp(bytes.data(), tensor.view().data, bytes.size()), 0);
  }
  EXPECT_EQ((*SafetensorsFile::open(path))->find(names[0])->dtype_text, "I32");
  EXPECT_EQ((*SafetensorsFile::open(path))->find(names[1])->dtype, DType::kBF16);
}

TEST(PayloadWriter, a_file_of_somebody_elses_is_never_replaced) {
  const TempDir dir;
  const std::string ours = dir.file("ours");
  {
    auto writer = PayloadWriter::create(ours, kSmall);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->add("a", numbered({DType::kF32, {3}}, 1).view()).ok());
  }
  EXPECT_TRUE(PayloadWriter::check_place(ours).ok()) << "with a tensor too";
  EXPECT_TRUE(PayloadWriter::check_place(dir.file("new")).ok());
  const std::string link = dir.file("link");
  ASSERT_EQ(::symlink("ours", link.c_str()), 0);
  const std::string weights = std::string("\x3b\0\0\0\0\0\0\0", 8) +
                              R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}     )" +
                              std::string(4, '\0');
  for (const std::string& path :
       {write_all(dir.file("weights"), weights), write_all(dir.file("text"), "hello"),
        write_all(dir.file("empty"), ""), link}) {
    const std::string before = read_all(path);
    for (const Status& status :
         {PayloadWriter::check_place(path), PayloadWriter::create(path, kSmall).status()}) {
      EXPECT_EQ(status.code(), StatusCode::kUsage) << path;
      EXPECT_THAT(status.message(), testing::HasSubstr(path));
    }
    EXPECT_EQ(read_all(path), before);
  }
}

TEST(PayloadWriter, a_full_disk_leaves_what_was_there_before) {
  ::signal(SIGXFSZ, SIG_IGN);
  const TempDir dir;
  const std::string path = dir.file("p.safetensors");
  auto writer = PayloadWriter::create(path, kSmall);
  ASSERT_TRUE(writer.ok());
  const Tensor small = numbered({DType::kF32, {10}}, 1);
  ASSERT_TRUE((*writer)->add("000000.in.0", small.view()).ok());
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = 8192;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto failed = (*writer)->add("000000.out.0", numbered({DType::kF32, {9999}}, 1).view());
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.status().code(), StatusCode::kResourceExhausted);
  EXPECT_FALSE((*writer)->add("000001.in.0", small.view()).ok()) << "it stays failed";
  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ((*file)->entries().size(), 1U);
}

TEST(PayloadWriter, that_cannot_begin_leaves_the_older_file) {
  ::signal(SIGXFSZ, SIG_IGN);
  const TempDir dir;
  const std::string path = dir.file("p.safetensors");
  ASSERT_TRUE(PayloadWriter::create(path, {9000, 0, 3}).ok());
  const std::string older = read_all(path);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  // Less than the room for the header.
  limit.rlim_cur = 1000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto writer = PayloadWriter::create(path, kSmall);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_FALSE(writer.ok());
  EXPECT_EQ(writer.status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(read_all(path), older);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(PayloadWriter, a_file_whose_writer_was_killed_before_it_named_a_tensor_is_read) {
  const TempDir dir;
  const std::string path = dir.file("p.safetensors");
  auto writer = PayloadWriter::create(path, kSmall);
  ASSERT_TRUE(writer.ok());
  const Tensor tensor = numbered({DType::kF32, {10}}, 1);
  ASSERT_TRUE((*writer)->add("000000.in.0", tensor.view()).ok());
  // add() first makes room for the tensor.
  std::filesystem::resize_file(path, std::filesystem::file_size(path) + 400);
  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  const SafetensorsEntry* entry = (*file)->find("000000.in.0");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(digest_of((*file)->mapped(*entry)), digest_of(tensor.view().bytes()));
}

TEST(PayloadWriter, an_entry_beyond_the_room_is_an_error_and_the_file_stays_readable) {
  const TempDir dir;
  const std::string path = dir.file("p.safetensors");
  auto writer = PayloadWriter::create(path, {200, 1 << 20, 1000});
  ASSERT_TRUE(writer.ok());
  const Tensor small = numbered({DType::kF32, {10}}, 1);
  std::size_t added = 0;
  while ((*writer)->add(payload_tensor_name(added, TraceSide::kInput, 0), small.view()).ok())
    ASSERT_LT(++added, 10U);
  EXPECT_GT(added, 0U);
  EXPECT_EQ((*SafetensorsFile::open(path))->entries().size(), added);
}

TEST(PayloadWriter, the_need_of_a_plan_holds_all_of_its_tensors) {
  const ForwardShape prompt{5, DType::kBF16, Attention::kOffload, Logits::kAll};
  const auto passes = split_prompt(prompt, 3);
  ASSERT_EQ(passes.size(), 2U);
  constexpr std::uint64_t kRuns = 3;
  const auto plan = plan_forward(kGoldenDims, prompt, 3).value();
  const PayloadNeed need = payload_need(kGoldenDims, plan, kRuns);
  const TempDir dir;
  const std::string path = dir.file("p.safetensors");
  auto writer = PayloadWriter::create(path, need);
  ASSERT_TRUE(writer.ok());
  std::uint64_t data_bytes = 0;
  std::vector<TraceRecord> records;
  for (std::uint64_t run = 0; run < kRuns; ++run) {
    for (const ForwardShape& pass : passes) {
      for (TraceRecord& record : synthesise_records(kGoldenDims, pass, {})) {
        record.seq = records.size();
        records.push_back(std::move(record));
      }
    }
  }
  for (const TraceRecord& record : records) {
    for (const TraceSide side : {TraceSide::kInput, TraceSide::kOutput}) {
      const auto& tensors = side == TraceSide::kInput ? record.inputs : record.outputs;
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        const Tensor tensor(tensors[i].desc);
        data_bytes += tensor.desc().bytes();
        const auto added = (*writer)->add(payload_tensor_name(record.seq, side, i), tensor.view());
        ASSERT_TRUE(added.ok()) << added.status().to_string();
      }
    }
  }
  EXPECT_EQ(data_bytes, need.data_bytes);
  EXPECT_TRUE(SafetensorsFile::open(path).ok());
}

TEST(PayloadWriter, a_run_of_too_many_tensors_is_refused_before_it_starts) {
  const TempDir dir;
  const auto plan = plan_forward(kGoldenDims, {5, DType::kBF16}).value();
  const std::string path = dir.file("p.safetensors");
  for (const std::uint64_t runs :
       {std::uint64_t{1'000'000}, std::numeric_limits<std::uint64_t>::max()}) {
    const auto writer = PayloadWriter::create(path, payload_need(kGoldenDims, plan, runs));
    ASSERT_FALSE(writer.ok());
    EXPECT_EQ(writer.status().code(), StatusCode::kUsage);
    EXPECT_THAT(writer.status().message(), testing::HasSubstr("--repeat"));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(PayloadWriter, a_disk_with_too_little_room_is_refused_with_need_and_have) {
  const TempDir dir;
  const auto writer = PayloadWriter::create(dir.file("p"), {4096, std::uint64_t{1} << 62, 10});
  ASSERT_FALSE(writer.ok());
  EXPECT_EQ(writer.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(writer.status().message(), testing::HasSubstr("needs 4611686018427392000 bytes"));
}

TEST(PayloadWriter, a_place_where_no_file_can_be_is_refused) {
  const TempDir dir;
  for (const std::string& path : {dir.path().string(), dir.file("no/such")}) {
    const auto writer = PayloadWriter::create(path, kSmall);
    ASSERT_FALSE(writer.ok());
    EXPECT_EQ(writer.status().code(), StatusCode::kInvalidInput) << writer.status().to_string();
  }
}

}  // namespace
}  // namespace airlock
