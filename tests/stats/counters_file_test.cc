// The counters file: what a server writes, a reader finds; what is no such file, it refuses.

#include "runtime/stats/counters_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>

#include "base/deadline.h"
#include "tests/stats/counters_rig.h"

namespace airlock {
namespace {

using counters_layout::Header;
using ::testing::HasSubstr;

TEST_F(CountersFileTest, tells_a_reader_what_the_server_is) {
  auto file = create();
  file->live().heartbeat_ns.store(now_ns());
  file->live().sessions_started.store(5);
  file->live().sessions_refused.store(6);
  const auto read = read_counters_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_TRUE(read->alive);
  EXPECT_TRUE(read->settled);
  EXPECT_EQ(read->pid, static_cast<std::uint64_t>(::getpid()));
  EXPECT_EQ(read->server.endpoint, info_.endpoint);
  EXPECT_EQ(read->server.dtype, "fp32");
  EXPECT_EQ(read->server.start_unix_ns, 7U);
  EXPECT_EQ(read->server.max_clients, 2U);
  EXPECT_EQ(read->sessions_started, 5U);
  EXPECT_EQ(read->sessions_refused, 6U);
  EXPECT_EQ(read->report.host.cpu, "a CPU");
  EXPECT_EQ(read->report.host.cores, 2U);
  EXPECT_EQ(read->report.config, describe_server(info_).config);
}

TEST_F(CountersFileTest, shows_what_a_session_counts_while_it_counts) {
  auto file = create();
  SessionBlock* block = file->open_session(0xabc, "a client", now_ns());
  ASSERT_NE(block, nullptr);
  count_something(*block);
  file->live().service_ns[Op::kBatchLinear].record(1000);
  const auto read = read_counters_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  ASSERT_EQ(read->report.sessions.size(), 1U);
  EXPECT_EQ(read->sessions_active, 1U);
  EXPECT_EQ(read->report.sessions[0].id, "0000000000000abc");
  EXPECT_EQ(read->report.sessions[0].client, "a client");
  EXPECT_EQ(read->report.transport, snapshot_of(block->transport));
  EXPECT_EQ(read->report.ops, snapshot_of(block->ops));
  EXPECT_EQ(read->service_ns[Op::kBatchLinear].count(), 1U);
}

TEST_F(CountersFileTest, keeps_the_sums_of_sessions_that_ended) {
  auto file = create();
  for (std::uint64_t epoch = 1; epoch <= 3; ++epoch) {
    SessionBlock* block = file->open_session(epoch, "client", now_ns());
    ASSERT_NE(block, nullptr);
    count_something(*block);
    if (epoch < 3) file->close_session(*block);
  }
  const auto read = read_counters_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  ASSERT_EQ(read->report.sessions.size(), 2U);
  EXPECT_EQ(read->report.sessions[0].sessions, 2U);
  EXPECT_EQ(read->report.sessions[0].id, "0000000000000002");
  EXPECT_EQ(read->report.transport[Path::kRing].sent, (DirectionSnapshot{3, 3, 30}));
  EXPECT_EQ(read->report.transport[Path::kZmq].parks, 15U);
  EXPECT_EQ(read->report.ops[Op::kMatmul].times.total_ns, 297U);
  EXPECT_EQ(read->report.ops[Op::kMatmul].times.device, (DeviceTimes{6, 9, 12}));
}

TEST_F(CountersFileTest, gives_each_session_a_zeroed_block_of_its_own) {
  auto file = create();
  SessionBlock* first = file->open_session(1, "", 0);
  count_something(*first);
  file->close_session(*first);
  std::vector<SessionBlock*> blocks;
  for (std::size_t i = 0; i < kBlocks; ++i) {
    blocks.push_back(file->open_session(i, "", 0));
    ASSERT_NE(blocks.back(), nullptr);
    EXPECT_EQ(snapshot_of(blocks.back()->transport), TransportSnapshot{});
    EXPECT_EQ(std::count(blocks.begin(), blocks.end(), blocks.back()), 1);
  }
  EXPECT_EQ(file->open_session(9, "", 0), nullptr);
  file->drop_session(*blocks[1]);
  EXPECT_EQ(file->open_session(9, "", 0), blocks[1]);
}

TEST_F(CountersFileTest, a_reader_sees_each_session_once_while_sessions_come_and_go) {
  auto file = create();
  std::atomic<bool> done{false};
  std::thread server([&] {
    for (std::uint64_t i = 0; i < 3000; ++i) {
      SessionBlock* block = file->open_session(i, "", 0);
      block->ops[Op::kPing].calls.store(1);
      file->live().sessions_started.fetch_add(1);
      file->close_session(*block);
    }
    done.store(true);
  });
  std::uint64_t last = 0;
  while (!done.load()) {
    const auto read = read_counters_file(path_);
    ASSERT_TRUE(read.ok()) << read.status().to_string();
    if (!read->settled) continue;
    const std::uint64_t calls = read->report.ops[Op::kPing].calls;
    EXPECT_GE(calls, last);
    EXPECT_LE(calls, read->sessions_started + 1);
    EXPECT_GE(calls + 1, read->sessions_started);
    last = calls;
  }
  server.join();
  EXPECT_EQ(read_counters_file(path_)->report.ops[Op::kPing].calls, 3000U);
}

TEST_F(CountersFileTest, a_server_that_ends_while_it_is_read_was_not_killed) {
  std::atomic<bool> done{false};
  std::thread server([&] {
    for (int i = 0; i < 500; ++i) create().reset();
    done.store(true);
  });
  while (!done.load()) {
    const auto read = read_counters_file(path_);
    if (read.ok()) {
      EXPECT_TRUE(read->alive);
    } else {
      EXPECT_EQ(read.status().code(), StatusCode::kUnavailable) << read.status().to_string();
    }
  }
  server.join();
}

TEST_F(CountersFileTest, answers_when_the_server_stands_still_between_two_sessions) {
  auto file = create();
  file->live().generation.store(1);
  const auto read = read_counters_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_FALSE(read->settled);
}

TEST_F(CountersFileTest, is_private_and_gone_at_the_end) {
  auto file = create();
  struct stat info {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  EXPECT_GE(static_cast<std::size_t>(info.st_blocks) * 512, counters_layout::file_bytes(kBlocks));
  file.reset();
  EXPECT_NE(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(read_counters_file(path_).status().code(), StatusCode::kUnavailable);
}

TEST_F(CountersFileTest, counts_on_after_its_file_was_removed) {
  auto file = create();
  file->remove();
  count_something(*file->open_session(1, "", 0));
  std::ofstream(path_) << "another server's";
  file.reset();
  EXPECT_TRUE(std::filesystem::exists(path_));
}

TEST_F(CountersFileTest, counts_in_private_memory_where_there_is_no_file) {
  auto memory = CountersFile::in_memory(info_, kBlocks);
  ASSERT_TRUE(memory.ok());
  count_something(*(*memory)->open_session(1, "", 0));
}

TEST_F(CountersFileTest, replaces_what_a_dead_server_left) {
  std::ofstream(path_).flush();  // killed before it had written anything
  EXPECT_NE(create(), nullptr);
  std::ofstream(path_) << std::string(100, '\0');  // killed before the magic
  EXPECT_NE(create(), nullptr);
  std::ofstream(path_) << "ARLKSTAT and more";
  EXPECT_NE(create(), nullptr);
}

TEST_F(CountersFileTest, leaves_a_file_that_is_no_counters_file) {
  for (const std::string text : {"my notes", "x", "a file of one's own"}) {
    std::ofstream(path_) << text;
    const Status status = CountersFile::create(path_, info_, kBlocks).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput) << text;
    EXPECT_THAT(status.message(), HasSubstr("in the way"));
    std::string left;
    std::getline(std::ifstream(path_), left);
    EXPECT_EQ(left, text);
  }
}

TEST_F(CountersFileTest, leaves_a_file_that_cannot_be_looked_at) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may open everything";
  std::ofstream(path_) << std::string(8, '\0');
  ASSERT_EQ(::chmod(path_.c_str(), 0), 0);
  EXPECT_EQ(CountersFile::create(path_, info_, kBlocks).status().code(), StatusCode::kInvalidInput);
  EXPECT_TRUE(std::filesystem::exists(path_));
}

TEST_F(CountersFileTest, sweeps_what_dead_servers_left_on_tcp_ports) {
  const auto path = [this](std::string_view name) { return directory_.file(std::string(name)); };
  for (const char* name : {"tcp-1.stats", "tcp-1.other", "ctl.stats"})
    std::ofstream(path(name)) << "ARLKSTAT";
  std::ofstream(path("tcp-2.stats")) << "my notes";
  std::ofstream(path("tcp-3.stats")).flush();  // being made
  std::filesystem::create_symlink("ctl.stats", path("tcp-5.stats"));
  auto live = CountersFile::create(path("tcp-4.stats"), info_, kBlocks);
  ASSERT_TRUE(live.ok());
  sweep_tcp_counters_files(directory_.path().string());
  EXPECT_FALSE(std::filesystem::exists(path("tcp-1.stats")));
  for (const char* name :
       {"tcp-1.other", "ctl.stats", "tcp-2.stats", "tcp-3.stats", "tcp-4.stats", "tcp-5.stats"})
    EXPECT_TRUE(std::filesystem::exists(path(name))) << name;
}

TEST_F(CountersFileTest, counts_on_after_somebody_cut_its_file_short) {
  auto file = create();
  SessionBlock* first = file->open_session(1, "", 0);
  EXPECT_FALSE(file->damaged());
  ASSERT_EQ(::truncate(path_.c_str(), 0), 0);
  count_something(*first);
  EXPECT_TRUE(file->damaged());
  SessionBlock* second = file->open_session(2, "", 0);
  EXPECT_NE(second, first);  // whose session still counts there
  count_something(*second);
  file->close_session(*first);
  EXPECT_EQ(file->sums().ops[Op::kMatmul].times.total_ns, 198U);
  file.reset();
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(CountersFileTest, sums_all_sessions_once) {
  auto file = create();
  for (std::uint64_t epoch = 1; epoch <= 4; ++epoch) {
    SessionBlock* block = file->open_session(epoch, "", 0);
    count_something(*block);
    if (epoch < 3) file->close_session(*block);
    if (epoch == 3) file->drop_session(*block);
  }
  const CounterSums sums = file->sums();
  EXPECT_EQ(sums.ops[Op::kMatmul].times.total_ns, 297U);
  EXPECT_EQ(sums.transport[Path::kZmq].parks, 15U);
}

TEST_F(CountersFileTest, gives_a_sign_of_life_from_the_start) {
  info_.start_ns = now_ns() - 3'600'000'000'000;  // the model took an hour to load
  auto file = create();
  EXPECT_LT(read_counters_file(path_)->heartbeat_age_ns, 3'000'000'000'000U);
}

TEST_F(CountersFileTest, leaves_the_file_of_a_live_server) {
  auto file = create();
  const auto second = CountersFile::create(path_, info_, kBlocks);
  EXPECT_EQ(second.status().code(), StatusCode::kInUse);
  EXPECT_TRUE(read_counters_file(path_).ok());
}

TEST_F(CountersFileTest, leaves_what_is_no_file) {
  ASSERT_EQ(::mkdir(path_.c_str(), 0700), 0);
  EXPECT_EQ(CountersFile::create(path_, info_, kBlocks).status().code(), StatusCode::kInvalidInput);
  ASSERT_EQ(::rmdir(path_.c_str()), 0);
  ASSERT_EQ(::symlink("/etc/passwd", path_.c_str()), 0);
  EXPECT_EQ(CountersFile::create(path_, info_, kBlocks).status().code(), StatusCode::kInvalidInput);
}

TEST_F(CountersFileTest, a_disk_without_room_is_found_at_once_and_leaves_nothing) {
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  rlimit small = old;
  small.rlim_cur = 8192;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto made = CountersFile::create(path_, info_, kBlocks);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_EQ(made.status().code(), StatusCode::kResourceExhausted);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(CountersFileTest, reader_knows_that_the_server_is_dead) {
  std::string bytes;
  {
    auto file = create();
    count_something(*file->open_session(1, "c", 0));
    std::ifstream in(path_, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  std::ofstream(path_, std::ios::binary) << bytes;  // as a kill leaves it: nobody holds the lock
  ::chmod(path_.c_str(), 0600);
  const auto read = read_counters_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_FALSE(read->alive);
  EXPECT_EQ(read->report.ops[Op::kMatmul].calls, 1U);
}

TEST_F(CountersFileTest, refuses_what_is_no_file_of_ours) {
  const auto code = [this] { return read_counters_file(path_).status(); };
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(code().message(), HasSubstr("not a regular file"));
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  ASSERT_EQ(::mkdir(path_.c_str(), 0700), 0);
  EXPECT_THAT(code().message(), HasSubstr("not a regular file"));
  ASSERT_EQ(::rmdir(path_.c_str()), 0);
  {
    auto file = create();
    ASSERT_EQ(::symlink(path_.c_str(), (path_ + "2").c_str()), 0);
    EXPECT_THAT(read_counters_file(path_ + "2").status().message(), HasSubstr("link"));
    ASSERT_EQ(::chmod(path_.c_str(), 0644), 0);
    EXPECT_THAT(code().message(), HasSubstr("mode 0644"));
  }
}

TEST_F(CountersFileTest, refuses_other_versions_and_formats) {
  EXPECT_EQ(read_spoiled(8, counters_layout::kVersion - 1).code(), StatusCode::kVersionMismatch);
  EXPECT_EQ(read_spoiled(8, counters_layout::kVersion + 1).code(), StatusCode::kVersionMismatch);
  expect_spoiled(0, 1, "no counters file");
  EXPECT_EQ(read_spoiled(0, std::uint64_t{0}).code(), StatusCode::kUnavailable);  // being made
  expect_spoiled(12, ~std::uint64_t{0}, "sizes");
}

TEST_F(CountersFileTest, reads_the_file_of_a_server_with_the_most_clients) {
  auto file = CountersFile::create(path_, info_, counters_layout::kMaxBlocks);
  ASSERT_TRUE(file.ok());
  const auto read = read_counters_file(path_);
  EXPECT_TRUE(read.ok()) << read.status().to_string();
}

TEST_F(CountersFileTest, refuses_sizes_that_do_not_fit) {
  EXPECT_THAT(read_spoiled(20, std::uint32_t{0}).message(), HasSubstr("names 0 sessions"));
  EXPECT_THAT(read_spoiled(20, ~std::uint32_t{0}).message(), HasSubstr("sessions"));
  EXPECT_THAT(read_spoiled(20, std::uint32_t{5}).message(), HasSubstr("should have"));
  expect_spoiled(40, 1, "should have");
  auto file = create();
  ASSERT_EQ(::truncate(path_.c_str(), off_t{1} << 40), 0);
  EXPECT_EQ(read_counters_file(path_).status().code(), StatusCode::kInvalidInput);
  ASSERT_EQ(::truncate(path_.c_str(), 52000), 0);
  EXPECT_EQ(read_counters_file(path_).status().code(), StatusCode::kInvalidInput);
  ASSERT_EQ(::truncate(path_.c_str(), 100), 0);
  EXPECT_EQ(read_counters_file(path_).status().code(), StatusCode::kUnavailable);
  ASSERT_EQ(::truncate(path_.c_str(), 0), 0);
  EXPECT_EQ(read_counters_file(path_).status().code(), StatusCode::kUnavailable);
}

TEST_F(CountersFileTest, a_file_cut_off_that_no_server_holds_is_damaged) {
  std::ofstream(path_) << "ARLKSTAT";
  ::chmod(path_.c_str(), 0600);
  EXPECT_EQ(read_counters_file(path_).status().code(), StatusCode::kInvalidInput);
}

TEST_F(CountersFileTest, sums_of_ended_sessions_may_exceed_one_sessions) {
  auto file = create();
  SessionBlock* block = file->open_session(1, "", 0);
  block->ops[Op::kMatmul].times.total_ns.store(std::uint64_t{1} << 61);
  EXPECT_EQ(read_counters_file(path_).status().code(), StatusCode::kInvalidInput);
  file->close_session(*block);
  const auto read = read_counters_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(read->report.ops[Op::kMatmul].times.total_ns, std::uint64_t{1} << 61);
}

TEST_F(CountersFileTest, refuses_absurd_counts) {
  const std::uint64_t absurd = ~std::uint64_t{0};
  constexpr std::size_t kLive = offsetof(Header, live);
  constexpr std::size_t kEnded = offsetof(Header, ended);
  expect_spoiled(48, 0, "process 0");
  expect_spoiled(48, absurd, "process");
  expect_spoiled(104, absurd, "count of sessions");  // max_clients
  expect_spoiled(kLive + 16, absurd, "count of sessions");
  expect_spoiled(kLive + 24, absurd, "count of sessions");
  expect_spoiled(kLive + 256 + 64, absurd, "histogram");
  expect_spoiled(kEnded + 24, absurd, "absurd count");
  expect_spoiled(sizeof(Header), 2, "state 2");
}

TEST_F(CountersFileTest, refuses_absurd_counts_of_a_session) {
  for (const std::size_t offset : {0, 16, 48, 56, 64, 72, 80, 8112, 8152, 8160, 8168, 8176}) {
    auto file = create();
    SessionBlock* block = file->open_session(1, "", 0);
    const std::uint64_t absurd = std::uint64_t{1} << 62;
    std::memcpy(reinterpret_cast<std::byte*>(&block->transport) + offset, &absurd, sizeof(absurd));
    EXPECT_EQ(read_counters_file(path_).status().code(), StatusCode::kInvalidInput) << offset;
  }
}

TEST_F(CountersFileTest, refuses_texts_without_an_end) {
  struct Field {
    std::size_t offset;
    std::size_t bytes;
  };
  for (const Field& field : {Field{128, 264}, Field{392, 1024}, Field{1416, 72}, Field{1488, 8},
                             Field{1496, 264}, Field{1760, 72}, Field{1832, 136}}) {
    auto file = create();
    const std::string filling(field.bytes, 'x');
    const int fd = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    EXPECT_EQ(::pwrite(fd, filling.data(), filling.size(), static_cast<off_t>(field.offset)),
              static_cast<ssize_t>(filling.size()));
    ::close(fd);
    const Status status = read_counters_file(path_).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput) << field.offset;
    EXPECT_THAT(status.message(), HasSubstr("has no end"));
  }
}

TEST_F(CountersFileTest, shows_no_control_characters_of_a_client) {
  auto file = create();
  file->open_session(1, "a\x1b[2Jb\x7f\xc2\x9b\x9b\xc3\xa9\xe2\x82\xac\xe2", 0);
  const auto read = read_counters_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(read->report.sessions[0].client, "a?[2Jb????\xc3\xa9\xe2\x82\xac?");
}

TEST_F(CountersFileTest, a_server_reads_no_text_past_its_field) {
  // So many blocks fill whole pages; behind them stands a page that cannot be read.
  constexpr std::size_t kPageBytes = 4096;
  constexpr std::size_t kPageful = 25;
  constexpr std::size_t kFileBytes = counters_layout::file_bytes(kPageful);
  static_assert(kFileBytes % kPageBytes == 0);
  void* const room = ::mmap(nullptr, kFileBytes + kPageBytes, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(room, MAP_FAILED);
  ASSERT_EQ(::munmap(room, kFileBytes), 0);
  auto made = CountersFile::create(path_, info_, kPageful);
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  SessionBlock* last = nullptr;
  for (std::size_t i = 0; i < kPageful; ++i) last = (*made)->open_session(i, "somebody", now_ns());
  const void* const end = static_cast<std::byte*>(room) + kFileBytes;
  if (last + 1 != end) GTEST_SKIP() << "the system put the file elsewhere";
  // Whoever may write the file takes away every end, up to the file's own.
  constexpr std::size_t kClient =
      kFileBytes - sizeof(SessionBlock) + offsetof(SessionBlock, client);
  const std::string ones(kFileBytes - kClient, '\xff');
  const UniqueFd file(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(::pwrite(file.get(), ones.data(), ones.size(), kClient),
            static_cast<ssize_t>(ones.size()));
  (*made)->close_session(*last);
  char copy[sizeof(SessionBlock::client)] = {};
  ASSERT_EQ(::pread(file.get(), copy, sizeof(copy),
                    offsetof(Header, ended) + offsetof(SessionBlock, client)),
            static_cast<ssize_t>(sizeof(copy)));
  EXPECT_EQ(std::string_view(copy, sizeof(copy) - 1), std::string(sizeof(copy) - 1, '\xff'));
  EXPECT_EQ(copy[sizeof(copy) - 1], '\0');
  ::munmap(static_cast<std::byte*>(room) + kFileBytes, kPageBytes);
}

TEST_F(CountersFileTest, cuts_texts_that_are_too_long) {
  info_.model = std::string(5000, 'm');
  auto file = create();
  file->open_session(1, std::string(500, 'c'), 0);
  const auto read = read_counters_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(read->report.config[0].second, std::string(1023, 'm'));
  EXPECT_EQ(read->report.sessions[0].client, std::string(71, 'c'));
}

}  // namespace
}  // namespace airlock
