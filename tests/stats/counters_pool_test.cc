// What the counters file says of the pool and of who has what of it: a reader finds what the server
// wrote, and refuses what cannot be.

#include <utility>
#include <vector>

#include "tests/stats/counters_rig.h"

namespace airlock {
namespace {

using counters_layout::Header;
using ::testing::HasSubstr;

constexpr std::uint64_t kSlot = 1 << 20;

class CountersPoolTest : public CountersFileTest {
 protected:
  /// 4 in, 2 out, none for scratch, 2 spare.
  void have_pool() { info_.pool = {kSlot, {{4, 2, 0}}, 2}; }
  /// A lease of two slots for operands and a page of a spare one for results, and the pool then.
  static SessionLease some_lease() {
    return {now_ns(),
            {{2 * kSlot, 3 * kSlot, 0}},
            {{PoolUse::kInput, kSlot, 2 * kSlot}, {PoolUse::kOutput, 6 * kSlot, 4096}}};
  }
  static PoolFigures some_figures() {
    PoolFigures figures;
    figures.own = {{PoolFigures::Free{2, 1}, PoolFigures::Free{2, 2}, PoolFigures::Free{}}};
    figures.spare = {1, 1};
    figures.leased_bytes = {{2 * kSlot, 4096, 0}};
    figures.high_water_bytes = {{4 * kSlot, 4096, 0}};
    figures.high_water_all_bytes = 4 * kSlot + 4096;
    figures.granted = 9;
    figures.cut_short = 3;
    figures.refused = 2;
    return figures;
  }
  /// The file of a server with that lease, with each word of `words` in place of what is there.
  Status read_spoiled_pool(const std::vector<std::pair<std::size_t, std::uint64_t>>& words) {
    auto file = create();
    file->set_lease(*file->open_session(1, "a client", 0), some_lease(), some_figures());
    const UniqueFd fd(::open(path_.c_str(), O_WRONLY | O_CLOEXEC));
    for (const auto& [offset, word] : words) {
      EXPECT_EQ(::pwrite(fd.get(), &word, sizeof(word), static_cast<off_t>(offset)),
                static_cast<ssize_t>(sizeof(word)));
    }
    return read_counters_file(path_).status();
  }
};

TEST_F(CountersPoolTest, shows_the_pool_and_who_has_what_of_it) {
  have_pool();
  auto file = create();
  auto read = read_counters_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(read->server.pool, info_.pool);
  EXPECT_EQ(read->pool.own[PoolUse::kInput], (PoolFigures::Free{4, 4}));
  EXPECT_EQ(read->pool.spare, (PoolFigures::Free{2, 2}));
  EXPECT_TRUE(read->holders.empty());
  SessionBlock* block = file->open_session(0xabc, "a client pid 5", now_ns());
  file->set_lease(*block, some_lease(), some_figures());
  read = read_counters_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_EQ(read->pool, some_figures());
  ASSERT_EQ(read->holders.size(), 1U);
  EXPECT_EQ(read->holders[0].session, "0000000000000abc");
  EXPECT_EQ(read->holders[0].client, "a client pid 5");
  EXPECT_EQ(read->holders[0].lease.asked, some_lease().asked);
  EXPECT_EQ(read->holders[0].lease.extents, some_lease().extents);
  EXPECT_LT(read->holders[0].age_ns, 3'600'000'000'000U);
  PoolFigures later = some_figures();
  later.leased_bytes = {};
  file->set_lease(*block, {}, later);
  read = read_counters_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_TRUE(read->holders.empty());
  EXPECT_EQ(read->pool, later);
}

TEST_F(CountersPoolTest, shows_a_session_that_got_nothing_of_what_it_asked_for) {
  have_pool();
  auto file = create();
  file->set_lease(*file->open_session(1, "", 0), {now_ns(), {{kSlot, 0, 0}}, {}}, some_figures());
  const auto read = read_counters_file(path_);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  ASSERT_EQ(read->holders.size(), 1U);
  EXPECT_TRUE(read->holders[0].lease.extents.empty());
}

TEST_F(CountersPoolTest, a_session_that_ends_leaves_no_lease) {
  have_pool();
  auto file = create();
  SessionBlock* block = file->open_session(1, "", 0);
  file->set_lease(*block, some_lease(), some_figures());
  file->close_session(*block);
  EXPECT_TRUE(read_counters_file(path_)->holders.empty());
  (void)file->open_session(2, "", 0);
  EXPECT_TRUE(read_counters_file(path_)->holders.empty());
}

TEST_F(CountersPoolTest, refuses_an_absurd_pool) {
  constexpr std::uint64_t kAbsurd = ~std::uint64_t{0};
  constexpr std::size_t kSlotBytes = offsetof(counters_layout::Identity, pool_slot_bytes);
  constexpr std::size_t kSlots = offsetof(counters_layout::Identity, pool_slots);
  constexpr std::size_t kPool = offsetof(Header, live) + offsetof(counters_layout::Live, pool);
  constexpr std::size_t kFree = kPool + offsetof(counters_layout::Pool, free_slots);
  constexpr std::size_t kRuns = kPool + offsetof(counters_layout::Pool, longest_runs);
  constexpr std::size_t kLease = sizeof(Header) + offsetof(SessionBlock, lease);
  constexpr std::size_t kCount = kLease + offsetof(counters_layout::Lease, extent_count);
  constexpr std::size_t kExtent = kLease + offsetof(counters_layout::Lease, extents);
  have_pool();
  ASSERT_TRUE(read_spoiled_pool({}).ok()) << read_spoiled_pool({}).to_string();
  using Words = std::vector<std::pair<std::size_t, std::uint64_t>>;
  const std::vector<Words> all = {
      {{kSlotBytes, 0}},
      {{kSlotBytes, 4096}},
      {{kSlotBytes, kSlot + 1}},
      {{kSlotBytes, kAbsurd}},
      {{kSlots, 1025}},
      {{kSlots, (std::uint64_t{1} << 32) + 4}},
      {{kSlots, 1}},  // the lease lies elsewhere then
      {{kSlots + 24, kAbsurd}},
      {{kSlots + 32, 2}},  // how it is committed
      {{kPool, 0}},        // less than what is leased
      {{kPool, kAbsurd}},
      {{kPool, 5 * kSlot}},
      {{kPool + 24, kSlot}},
      {{kPool + 24, 5 * kSlot}},
      {{kPool + 48, kSlot}},
      {{kPool + 48, kAbsurd}},
      {{kPool + 56, kAbsurd}},
      {{kPool + 64, 10}},  // more cut short than granted
      {{kPool + 72, kAbsurd}},
      {{kFree, 5}},
      {{kFree, kAbsurd}},
      {{kFree, 0}},
      {{kFree + 24, 3}},
      {{kRuns, 3}},
      {{kRuns, 0}},
      {{kRuns + 24, kAbsurd}},
      {{kLease + 8, kSlot}},  // asked for less
      {{kLease + 24, kAbsurd}},
      {{kCount, 4}},
      {{kCount, kAbsurd}},
      {{kExtent, 1}},  // two of one use
      {{kExtent, 3}},
      {{kExtent, kAbsurd}},
      {{kExtent + 8, 4096}},
      {{kExtent + 8, 3 * kSlot}},  // into those for results
      {{kExtent + 8, 8 * kSlot}},
      {{kExtent + 8, kAbsurd - 4095}},
      {{kExtent + 16, 0}},
      {{kExtent + 16, 1}},
      {{kExtent + 16, 3 * kSlot}},
      {{kExtent + 16, kAbsurd - 4095}},
      {{kExtent + 24 + 8, 0}},
  };
  for (const Words& words : all) {
    const Status status = read_spoiled_pool(words);
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput)
        << words[0].first << ": " << words[0].second << ": " << status.to_string();
  }
}

TEST_F(CountersPoolTest, refuses_a_lease_of_no_pool) {
  auto file = create();
  file->set_lease(*file->open_session(1, "", 0), some_lease(), {});
  EXPECT_EQ(read_counters_file(path_).status().code(), StatusCode::kInvalidInput);
}

TEST_F(CountersPoolTest, refuses_two_sessions_with_the_same_slots) {
  have_pool();
  auto file = create();
  PoolFigures figures = some_figures();
  figures.own[PoolUse::kInput] = {0, 0};
  figures.leased_bytes[PoolUse::kInput] = 4 * kSlot;
  SessionLease lease{now_ns(), {{2 * kSlot, 0, 0}}, {{PoolUse::kInput, 0, 2 * kSlot}}};
  file->set_lease(*file->open_session(1, "", 0), lease, figures);
  lease.extents[0].offset = 2 * kSlot;
  SessionBlock* second = file->open_session(2, "", 0);
  file->set_lease(*second, lease, figures);
  ASSERT_TRUE(read_counters_file(path_).ok()) << read_counters_file(path_).status().to_string();
  lease.extents[0].offset = kSlot;
  file->set_lease(*second, lease, figures);
  EXPECT_THAT(read_counters_file(path_).status().message(), HasSubstr("meet"));
  // Of a server that was stopped in the middle, all of it need not be of one moment.
  file->live().generation.store(1);
  EXPECT_TRUE(read_counters_file(path_).ok());
}

TEST_F(CountersPoolTest, leaves_a_lease_out_that_was_half_written) {
  have_pool();
  auto file = create();
  SessionBlock* const block = file->open_session(1, "", 0);
  file->set_lease(*block, some_lease(), some_figures());
  ASSERT_EQ(read_counters_file(path_)->holders.size(), 1U);
  for (auto& extent : block->lease.extents) extent = {};
  EXPECT_EQ(read_counters_file(path_).status().code(), StatusCode::kInvalidInput);
  file->live().generation.store(1);
  const auto snapshot = read_counters_file(path_);
  ASSERT_TRUE(snapshot.ok()) << snapshot.status().to_string();
  EXPECT_FALSE(snapshot->settled);
  EXPECT_TRUE(snapshot->holders.empty());
}

}  // namespace
}  // namespace airlock
