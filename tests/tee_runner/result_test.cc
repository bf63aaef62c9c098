#include "tee_runner/result.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

namespace airlock {
namespace {

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

PrefillResult result_of(std::vector<std::uint64_t> runs_ns, std::vector<float> logits) {
  PrefillResult result;
  result.tokens = 4;
  result.runs_ns = std::move(runs_ns);
  result.logits = Tensor({DType::kF32, {1, static_cast<std::int64_t>(logits.size())}});
  std::copy(logits.begin(), logits.end(), result.logits.as<float>().begin());
  result.top = top_logits(logits, 5);
  return result;
}

BackendInfo server_of(const char* device, DType dtype) {
  BackendInfo info;
  info.device = device;
  info.dtype = dtype;
  return info;
}

TEST(Npy, writes_a_header_of_whole_lines_and_the_data_with_mode_0600) {
  const std::string path = testing::TempDir() + "airlock-logits.npy";
  Tensor tensor({DType::kF32, {2, 3}});
  for (std::size_t i = 0; i < 6; ++i) tensor.as<float>()[i] = static_cast<float>(i);
  ASSERT_TRUE(write_npy(OutputFile::open(path).value(), tensor.view()).ok());
  const std::string text = contents(path);
  EXPECT_EQ(text.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  const std::size_t header =
      static_cast<unsigned char>(text[8]) + 256U * static_cast<unsigned char>(text[9]);
  EXPECT_EQ((10 + header) % 64, 0U);
  EXPECT_EQ(text[9 + header], '\n');
  EXPECT_NE(text.find("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"),
            std::string::npos);
  ASSERT_EQ(text.size(), 10 + header + 24);
  EXPECT_EQ(std::memcmp(text.data() + 10 + header, tensor.view().data, 24), 0);
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
  std::remove(path.c_str());
}

TEST(Npy, one_extent_keeps_its_comma) {
  const std::string path = testing::TempDir() + "airlock-vector.npy";
  ASSERT_TRUE(write_npy(OutputFile::open(path).value(), Tensor({DType::kF32, {5}}).view()).ok());
  EXPECT_NE(contents(path).find("'shape': (5,)"), std::string::npos);
  std::remove(path.c_str());
}

TEST(Npy, names_the_path_that_cannot_be_written) {
  const Status status =
      write_npy(OutputFile::open("/dev/full").value(), Tensor({DType::kF32, {1}}).view());
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("/dev/full"), std::string::npos);
}

TEST(TopLogits, are_the_largest_with_nan_last) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {1, nan, 3, -infinity, 3, infinity};
  const auto top = top_logits(logits, 10);
  ASSERT_EQ(top.size(), 6U);
  const std::int64_t ids[] = {5, 2, 4, 0, 3, 1};
  for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(top[i].id, ids[i]);
}

TEST(PrefillResult, takes_the_median_of_its_runs) {
  EXPECT_EQ(result_of({9, 1, 5}, {0}).wall_ns(), 5U);
  EXPECT_EQ(result_of({9, 1, 5, 7}, {0}).wall_ns(), 6U);
}

TEST(Output, json_has_the_promised_keys_and_no_bare_nan) {
  const std::string text =
      format_result(result_of({2000000}, {1.5F, std::nanf("")}), OutputForm::kJson);
  EXPECT_EQ(text,
            "{\"tokens\":4,\"runs_ns\":[2000000],\"wall_ns\":2000000,\"tokens_per_s\":2000.000,"
            "\"top\":[{\"id\":0,\"logit\":1.5},{\"id\":1,\"logit\":null}]}\n");
}

TEST(Output, csv_is_one_header_and_one_line_of_as_many_fields) {
  const std::string text = format_result(result_of({2000000}, {1.5F, 2.5F}), OutputForm::kCsv);
  const std::size_t line = text.find('\n') + 1;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_EQ(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(line), ','),
            std::count(text.begin() + static_cast<std::ptrdiff_t>(line), text.end(), ','));
}

TEST(Comparison, demands_the_same_bits_of_a_cpu) {
  const auto local = result_of({100}, {1.0F, 0.0F});
  const BackendInfo cpu = server_of("cpu", DType::kBF16);
  EXPECT_TRUE(
      check_comparison(compare(result_of({110}, {1.0F, 0.0F}), {}, cpu, DType::kBF16, local, {}))
          .ok());
  const Comparison other =
      compare(result_of({110}, {1.0F, -0.0F}), {}, cpu, DType::kBF16, local, {});
  EXPECT_EQ(check_comparison(other).code(), StatusCode::kMismatch);
  EXPECT_EQ(other.differing, 1U);
  EXPECT_NEAR(other.overhead(), 0.1, 1e-12);
}

TEST(Comparison, holds_another_device_to_the_tolerance_of_the_coarser_type) {
  const auto local = result_of({100}, {10.0F, 1.0F});
  const auto near = result_of({100}, {10.3F, 1.0F});
  const auto check = [&](const PrefillResult& remote, DType dtype, DType wire) {
    return check_comparison(compare(remote, {}, server_of("cuda:0 X", dtype), wire, local, {}))
        .ok();
  };
  EXPECT_TRUE(check(near, DType::kBF16, DType::kF32));
  EXPECT_TRUE(check(near, DType::kF16, DType::kBF16));
  EXPECT_FALSE(check(near, DType::kF16, DType::kF32));
  EXPECT_FALSE(check(result_of({100}, {10.0F, std::nanf("")}), DType::kBF16, DType::kBF16));
}

TEST(Comparison, lists_the_ops_that_both_sides_ran) {
  OpSnapshotTable remote, local;
  remote[Op::kMatmul] = {2, {300}};
  remote[Op::kInit] = {1, {10}};
  local[Op::kMatmul] = {2, {200}};
  auto result = result_of({1}, {0});
  result.comparison =
      compare(result, remote, server_of("cpu", DType::kF32), DType::kF32, result, local);
  ASSERT_EQ(result.comparison->ops.size(), 1U);
  EXPECT_EQ(result.comparison->ops[0].op, Op::kMatmul);
  EXPECT_EQ(result.comparison->ops[0].remote_ns, 300U);
  EXPECT_NE(format_result(result, OutputForm::kMarkdown).find("| matmul | 2 |"), std::string::npos);
}

}  // namespace
}  // namespace airlock
