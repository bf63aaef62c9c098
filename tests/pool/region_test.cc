// The server's pool and a runner's lease of it, in one process that maps both.

#include "pool/region.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "pool/lease.h"
#include "tests/pool/pool_pair.h"
#include "tests/support/sanitizer.h"

namespace airlock {
namespace {

using testing::HasSubstr;
using testing_rigs::PoolPair;

constexpr std::uint64_t kSlot = 64 << 10;
/// 8 in, 8 out, 4 scratch; a session has 2, 2 and 1.
constexpr PoolShape kShape{kSlot, {{8, 8, 4}}, 0};

std::uint64_t resident_bytes(const UniqueFd& memory) {
  struct stat info = {};
  EXPECT_EQ(::fstat(memory.get(), &info), 0);
  return static_cast<std::uint64_t>(info.st_blocks) * 512;
}

TEST(PoolRegion, grants_runs_of_slots_up_to_the_quota) {
  const auto region = PoolRegion::create(kShape, PoolCommit::kLazy).value();
  const auto one = region->grant(PoolUse::kInput, 1).value();
  EXPECT_EQ(one.extent(), (PoolExtent{PoolUse::kInput, 0, 4096}));
  const auto two = region->grant(PoolUse::kInput, UINT64_MAX).value();
  EXPECT_EQ(two.extent(), (PoolExtent{PoolUse::kInput, kSlot, 2 * kSlot}));
  const auto out = region->grant(PoolUse::kOutput, kSlot + 1).value();
  EXPECT_EQ(out.extent(), (PoolExtent{PoolUse::kOutput, 8 * kSlot, kSlot + 4096}));
  const auto scratch = region->grant(PoolUse::kScratch, 2 * kSlot).value();
  EXPECT_EQ(scratch.extent(), (PoolExtent{PoolUse::kScratch, 16 * kSlot, kSlot}));
}

TEST(PoolRegion, says_what_is_needed_and_what_is_free_where_it_is_full) {
  const auto region = PoolRegion::create({kSlot, {{2, 1, 0}}, 1}, PoolCommit::kLazy).value();
  std::vector<GrantedExtent> granted;
  for (int i = 0; i < 3; ++i) granted.push_back(region->grant(PoolUse::kInput, kSlot).value());
  EXPECT_EQ(granted.back().extent().offset, 3 * kSlot);  // the spare one
  const auto none = region->grant(PoolUse::kInput, kSlot);
  EXPECT_EQ(none.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(none.status().message(),
              HasSubstr("1 slots of 65536 bytes are needed for in, 0 are free"));
  EXPECT_TRUE(region->grant(PoolUse::kOutput, kSlot).ok());
  granted.erase(granted.begin());
  EXPECT_EQ(region->grant(PoolUse::kInput, kSlot)->extent().offset, 0u);
}

TEST(PoolRegion, counts_what_is_leased_and_what_is_free) {
  const auto region = PoolRegion::create(kShape, PoolCommit::kLazy).value();
  PoolFigures figures = region->figures();
  EXPECT_EQ(figures.own[PoolUse::kInput], (PoolFigures::Free{8, 8}));
  EXPECT_EQ(figures.spare, PoolFigures::Free{});
  {
    const auto first = region->grant(PoolUse::kInput, 4097).value();
    auto second = std::make_optional(region->grant(PoolUse::kInput, 2 * kSlot).value());
    const auto third = region->grant(PoolUse::kInput, kSlot).value();
    const auto out = region->grant(PoolUse::kOutput, 1).value();
    second.reset();
    figures = region->figures();
    EXPECT_EQ(figures.own[PoolUse::kInput], (PoolFigures::Free{6, 4}));
    EXPECT_EQ(figures.leased_bytes[PoolUse::kInput], 8192 + kSlot);
    EXPECT_EQ(figures.leased_bytes[PoolUse::kOutput], 4096U);
    EXPECT_EQ(figures.high_water_bytes[PoolUse::kInput], 8192 + 3 * kSlot);
  }
  figures = region->figures();
  EXPECT_EQ(figures.leased_all_bytes(), 0U);
  EXPECT_EQ(figures.high_water_all_bytes, 8192 + 3 * kSlot + 4096);
  EXPECT_EQ(figures.own[PoolUse::kInput], (PoolFigures::Free{8, 8}));
  EXPECT_EQ(figures.granted, 4U);
  EXPECT_EQ(figures.cut_short, 0U);
  EXPECT_EQ(figures.refused, 0U);
}

TEST(PoolRegion, counts_leases_that_lack_room) {
  const auto region = PoolRegion::create({kSlot, {{8, 0, 0}}, 0}, PoolCommit::kLazy).value();
  std::vector<GrantedExtent> granted;
  // The quota of two slots is not what is counted.
  for (int i = 0; i < 3; ++i) granted.push_back(region->grant(PoolUse::kInput, UINT64_MAX).value());
  granted.push_back(region->grant(PoolUse::kInput, 1).value());
  granted.push_back(region->grant(PoolUse::kInput, UINT64_MAX).value());
  EXPECT_EQ(granted.back().extent().bytes, kSlot);
  EXPECT_FALSE(region->grant(PoolUse::kInput, 1).ok());
  const PoolFigures figures = region->figures();
  EXPECT_EQ(figures.granted, 5U);
  EXPECT_EQ(figures.cut_short, 1U);
  EXPECT_EQ(figures.refused, 1U);
}

TEST(PoolRegion, slots_lie_side_by_side_and_are_written_in_place) {
  const PoolPair pair;
  const PoolMap server = pair.server_map();
  auto block = pair.lease->take(PoolUse::kInput, kSlot + 5);
  ASSERT_TRUE(block);
  std::byte* const ours = pair.lease->pool_map().find(block->place(), kSlot + 5);
  std::byte* const theirs = server.find(block->place(), kSlot + 5);
  ASSERT_NE(ours, theirs);
  std::fill_n(ours, kSlot + 5, std::byte{7});
  EXPECT_TRUE(
      std::all_of(theirs, theirs + kSlot + 5, [](std::byte b) { return b == std::byte{7}; }));
  EXPECT_EQ(theirs[kSlot + 5], std::byte{0});
}

TEST(PoolRegion, the_next_one_finds_zeros_and_the_last_one_keeps_nothing_of_his) {
  const auto region = PoolRegion::create(kShape, PoolCommit::kLazy).value();
  auto first = std::make_unique<GrantedExtent>(region->grant(PoolUse::kInput, kSlot).value());
  const UniqueFd kept(::dup(first->memory().get()));
  const Mapping mapped = Mapping::of(kept, kSlot).value();
  std::fill_n(first->bytes().data(), kSlot, std::byte{1});
  const PoolExtent extent = first->extent();
  first->discard();
  EXPECT_EQ(resident_bytes(kept), 0u);
  EXPECT_EQ(mapped.bytes()[5], std::byte{0});
  first.reset();

  const auto second = region->grant(PoolUse::kInput, kSlot).value();
  EXPECT_EQ(second.extent(), extent);
  EXPECT_TRUE(std::ranges::all_of(second.bytes(), [](std::byte b) { return b == std::byte{0}; }));
  std::fill_n(second.bytes().data(), kSlot, std::byte{2});
  EXPECT_TRUE(std::ranges::all_of(mapped.bytes(), [](std::byte b) { return b == std::byte{0}; }));
  std::fill_n(mapped.bytes().data(), kSlot, std::byte{3});
  EXPECT_TRUE(std::ranges::all_of(second.bytes(), [](std::byte b) { return b == std::byte{2}; }));
}

/// What a client can try with the descriptors that it gets, beside another one's lease.
TEST(PoolRegion, a_lease_reaches_nothing_but_itself) {
  const auto region = PoolRegion::create(kShape, PoolCommit::kLazy).value();
  const auto thief = region->grant(PoolUse::kInput, kSlot).value();
  const auto victim = region->grant(PoolUse::kInput, kSlot).value();
  ASSERT_EQ(victim.extent().offset, kSlot);  // the next slot
  std::ranges::fill(victim.bytes(), std::byte{0x5e});
  const int fd = thief.memory().get();

  struct stat own = {};
  struct stat other = {};
  ASSERT_EQ(::fstat(fd, &own), 0);
  ASSERT_EQ(::fstat(victim.memory().get(), &other), 0);
  EXPECT_NE(own.st_ino, other.st_ino);
  std::byte stolen{};
  EXPECT_EQ(::pread(fd, &stolen, 1, kSlot), 0);  // the end
  EXPECT_EQ(::pwrite(fd, &stolen, 1, kSlot), -1);
  EXPECT_EQ(::ftruncate(fd, 2 * kSlot), -1);
  EXPECT_EQ(::ftruncate(fd, 0), -1);
  EXPECT_NE(::posix_fallocate(fd, 0, 2 * kSlot), 0);
  EXPECT_EQ(::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE),
            -1);  // nobody makes it read-only for the server
  // More of it can be mapped, and there is nothing behind it.
  void* const more = ::mmap(nullptr, 2 * kSlot, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ASSERT_NE(more, MAP_FAILED);
#if !AIRLOCK_ASAN && !AIRLOCK_TSAN  // they take the signal
  EXPECT_EXIT(std::exit(static_cast<int>(static_cast<volatile std::byte*>(more)[kSlot])),
              ::testing::KilledBySignal(SIGBUS), "");
#endif
  ::munmap(more, 2 * kSlot);
  // Its own it may empty, which is its own loss.
  EXPECT_EQ(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kSlot), 0);
  EXPECT_TRUE(
      std::ranges::all_of(victim.bytes(), [](std::byte b) { return b == std::byte{0x5e}; }));
}

TEST(PoolRegion, takes_memory_only_where_it_is_touched) {
  const auto region = PoolRegion::create(kShape, PoolCommit::kLazy).value();
  const auto granted = region->grant(PoolUse::kInput, 2 * kSlot).value();
  EXPECT_EQ(resident_bytes(granted.memory()), 0u);
  granted.bytes()[kSlot] = std::byte{1};
  EXPECT_EQ(resident_bytes(granted.memory()), 4096u);
}

TEST(PoolRegion, committed_holds_all_of_it_from_the_start) {
  const auto region = PoolRegion::create(kShape, PoolCommit::kAll).value();
  for (int round = 0; round < 3; ++round) {
    auto granted = region->grant(PoolUse::kInput, 2 * kSlot).value();
    const UniqueFd kept = granted.hand_out().value();
    EXPECT_EQ(resident_bytes(granted.memory()), 2 * kSlot);
    EXPECT_TRUE(
        std::ranges::all_of(granted.bytes(), [](std::byte b) { return b == std::byte{0}; }));
    std::fill_n(granted.bytes().data(), kSlot, std::byte{1});
    granted.discard();
    EXPECT_EQ(resident_bytes(kept), 0u);
  }
}

TEST(PoolRegion, a_thousand_sessions_at_once_leave_nothing) {
  const auto region = PoolRegion::create(kShape, PoolCommit::kLazy).value();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&region] {
      for (int round = 0; round < 250; ++round) {
        auto granted = region->grant(PoolUse::kOutput, 2 * kSlot);
        if (!granted.ok()) continue;
        EXPECT_EQ(granted->bytes()[kSlot - 1], std::byte{0});
        granted->bytes()[kSlot - 1] = std::byte{1};
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(region->grant(PoolUse::kOutput, 2 * kSlot).ok());
  std::vector<GrantedExtent> all;
  for (int i = 0; i < 4; ++i) all.push_back(region->grant(PoolUse::kOutput, 2 * kSlot).value());
  EXPECT_FALSE(region->grant(PoolUse::kOutput, 1).ok());
}

TEST(PoolMap, finds_nothing_outside_of_the_lease) {
  const PoolPair pair;  // in: slots 0 and 1, out: slots 8 and 9
  const PoolMap map = pair.server_map();
  EXPECT_NE(map.find(PoolPlace::at(0), 2 * kSlot), nullptr);
  EXPECT_NE(map.find(PoolPlace::at(2 * kSlot - 4096), 4096), nullptr);
  EXPECT_EQ(map.find(PoolPlace::at(2 * kSlot - 4096), 4097), nullptr);
  EXPECT_EQ(map.find(PoolPlace::at(0), 2 * kSlot + 1), nullptr);
  EXPECT_EQ(map.find(PoolPlace::at(2 * kSlot), 1), nullptr);
  EXPECT_EQ(map.find(PoolPlace::at(7 * kSlot), 2 * kSlot), nullptr);
  EXPECT_EQ(map.find(PoolPlace::at(0), SIZE_MAX), nullptr);
  EXPECT_EQ(map.find(PoolPlace::at(limits::kMaxPoolBytes - 4096), 4096), nullptr);
  EXPECT_EQ(map.find(PoolPlace(), 1), nullptr);
  PoolPlace last;
  last.number = UINT32_MAX;
  EXPECT_EQ(map.find(last, 1), nullptr);
}

TEST(PoolLease, takes_no_more_than_was_asked_for_and_nothing_that_is_not_sealed) {
  const auto region = PoolRegion::create(kShape, PoolCommit::kLazy).value();
  const auto granted = region->grant(PoolUse::kInput, 2 * kSlot).value();
  const std::vector<PoolExtent> extents = {granted.extent()};
  const auto code_of = [&](const std::vector<PoolExtent>& said, int fd, const PoolWish& wish) {
    std::vector<UniqueFd> memory;
    if (fd >= 0) memory.emplace_back(::dup(fd));
    return PoolLease::map(said, memory, wish).status().code();
  };
  const PoolWish wish{{2 * kSlot, 0, 0}};
  const int fd = granted.memory().get();
  EXPECT_EQ(code_of(extents, fd, wish), StatusCode::kOk);
  EXPECT_EQ(code_of(extents, fd, {{2 * kSlot - 4095, 0, 0}}), StatusCode::kOk);
  EXPECT_EQ(code_of(extents, fd, {{2 * kSlot - 4096, 0, 0}}), StatusCode::kProtocolError);
  EXPECT_EQ(code_of(extents, fd, {{0, 2 * kSlot, 0}}), StatusCode::kProtocolError);
  EXPECT_EQ(code_of(extents, -1, wish), StatusCode::kProtocolError);
  EXPECT_EQ(code_of({}, fd, wish), StatusCode::kProtocolError);
  EXPECT_EQ(code_of({{PoolUse::kInput, 0, kSlot}}, fd, wish), StatusCode::kProtocolError);
  const UniqueFd open(::memfd_create("open", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(open.get(), 2 * kSlot), 0);
  EXPECT_EQ(code_of(extents, open.get(), wish), StatusCode::kProtocolError);
}

TEST(PoolLease, takes_no_memory_of_huge_pages) {
  const UniqueFd huge(::memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB));
  if (!huge.valid()) GTEST_SKIP() << "this system has none";
  const std::uint64_t bytes = 2 << 20;
  ASSERT_EQ(::ftruncate(huge.get(), static_cast<off_t>(bytes)), 0);
  ASSERT_EQ(::fcntl(huge.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
  std::vector<UniqueFd> memory;
  memory.emplace_back(::dup(huge.get()));
  EXPECT_EQ(PoolLease::map({{PoolUse::kInput, 0, bytes}}, memory, {{bytes, 0, 0}}).status().code(),
            StatusCode::kProtocolError);
}

TEST(PoolLease, does_without_what_finds_no_address_space) {
#if AIRLOCK_ASAN || AIRLOCK_TSAN
  GTEST_SKIP() << "a sanitizer needs address space of its own";
#endif
  const auto region = PoolRegion::create(kShape, PoolCommit::kLazy).value();
  const auto granted = region->grant(PoolUse::kInput, kSlot).value();
  std::vector<UniqueFd> memory;
  memory.emplace_back(::dup(granted.memory().get()));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_AS, &before), 0);
  rlimit none = before;
  none.rlim_cur = 1;
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &none), 0);
  const auto lease = PoolLease::map({granted.extent()}, memory, {{kSlot, 0, 0}});
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &before), 0);
  ASSERT_TRUE(lease.ok()) << lease.status().message();
  EXPECT_FALSE((*lease)->take(PoolUse::kInput, 1));
}

TEST(PoolLease, divides_its_extents_by_itself) {
  const PoolPair pair;
  std::set<std::uint64_t> places;
  {
    std::vector<PoolBlock> blocks;
    while (auto block = pair.lease->take(PoolUse::kInput, 5000)) {
      EXPECT_TRUE(places.insert(block->place().offset()).second);
      blocks.push_back(std::move(*block));
    }
    EXPECT_EQ(blocks.size(), 2 * kSlot / 8192);
    EXPECT_TRUE(pair.lease->take(PoolUse::kOutput, 1));
    EXPECT_FALSE(pair.lease->take(PoolUse::kScratch, 1));
  }
  EXPECT_EQ(pair.lease->longest_run(PoolUse::kInput), 2 * kSlot);
}

}  // namespace
}  // namespace airlock
