#pragma once

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <string>

#include "base/deadline.h"
#include "runtime/stats/counters_file.h"
#include "runtime/stats/counters_reader.h"
#include "tests/stats/sample_server_info.h"
#include "tests/support/temp_dir.h"

namespace airlock {

using counters_layout::SessionBlock;

inline constexpr std::size_t kBlocks = 4;

class CountersFileTest : public ::testing::Test {
 protected:
  CountersFileTest() {
    info_.ring_on = true;
    info_.start_ns = now_ns();
    info_.start_unix_ns = 7;
  }

  std::unique_ptr<CountersFile> create() {
    auto made = CountersFile::create(path_, info_, kBlocks);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    return made.ok() ? std::move(made).value() : nullptr;
  }
  /// A file as a server left it, with `bytes` at `offset` replaced.
  template <typename T>
  Status read_spoiled(std::size_t offset, T value) {
    auto file = create();
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    EXPECT_EQ(::pwrite(fd, &value, sizeof(value), static_cast<off_t>(offset)),
              static_cast<ssize_t>(sizeof(value)));
    ::close(fd);
    return read_counters_file(path_).status();
  }
  void expect_spoiled(std::size_t offset, std::uint64_t value, const std::string& word) {
    const Status status = read_spoiled(offset, value);
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput) << status.to_string();
    EXPECT_THAT(status.message(), ::testing::HasSubstr(word));
  }
  static void count_something(SessionBlock& block) {
    constexpr std::array<std::size_t, 2> kBytes = {10, 1000};
    block.transport.book_sent(plan_message({true, 100, 8}, kBytes).value());
    block.transport[Path::kZmq].parks.fetch_add(5);
    block.ops[Op::kMatmul].calls.fetch_add(1);
    block.ops[Op::kMatmul].times.total_ns.fetch_add(99);
    block.ops[Op::kMatmul].times.device.copy_in_ns.fetch_add(2);
    block.ops[Op::kMatmul].times.device.compute_ns.fetch_add(3);
    block.ops[Op::kMatmul].times.device.copy_out_ns.fetch_add(4);
  }

  const TempDir directory_;
  const std::string path_ = directory_.file("ctl.stats");
  ServerInfo info_ = sample_server_info();
};

}  // namespace airlock
