// Sessions that lease of the server's pool, against a whole server in this process.

#include "tests/gpu_server/session_rig.h"

namespace airlock::testing {
namespace {

constexpr std::uint64_t kSlot = 1 << 20;

class PoolSessionTest : public SessionTest {
 protected:
  void start_with(const PoolShape& shape) {
    options_.pool = {PoolMode::kShape, shape, PoolCommit::kLazy};
    start();
  }
  ConnectOptions wishing(std::uint64_t bytes = kSlot) const {
    ConnectOptions options = client_options();
    options.pool = {{bytes, bytes, 0}};
    return options;
  }
  struct Used {
    std::uint64_t pool = 0;
    std::uint64_t zmq = 0;
    std::uint64_t fallbacks = 0;
    bool operator==(const Used&) const = default;
  };
  /// Tensors that went by each, after expect_works(): its largest op has one of each direction over
  /// a slot of the ring.
  static Used used(ClientSession& session) {
    const TransportSnapshot stats = snapshot_of(session.transport_stats());
    const auto tensors = [&](Path path) {
      return stats[path].sent.tensors + stats[path].received.tensors;
    };
    return {tensors(Path::kPool), tensors(Path::kZmq), stats[Path::kPool].fallbacks};
  }
};

TEST_F(PoolSessionTest, large_tensors_go_by_the_pool) {
  start_with({kSlot, {{4, 4, 0}}, 0});
  auto session = connect(wishing());
  ASSERT_NE(session, nullptr);
  EXPECT_TRUE(session->policy().has_pool);
  expect_works(*session);
  EXPECT_EQ(used(*session), (Used{2, 0, 0}));
  session->close();
  const auto stats = stop_and_read_stats();
  EXPECT_EQ(stats["paths"]["pool"]["received"]["tensors"], 1);
  EXPECT_EQ(stats["paths"]["pool"]["sent"]["tensors"], 1);
  EXPECT_EQ(stats["sessions"][0]["paths"]["pool"]["fallbacks"], 0);
}

TEST_F(PoolSessionTest, the_counters_file_shows_who_has_what) {
  const PoolShape shape{kSlot, {{4, 4, 0}}, 0};
  start_with(shape);
  const auto look = [&] {
    auto read = read_counters_file(directory_.file("ctl.stats"));
    EXPECT_TRUE(read.ok()) << read.status().to_string();
    return read.ok() ? std::move(read).value() : CountersSnapshot();
  };
  auto first = connect(wishing(kSlot / 2));
  auto second = connect(wishing(2 * kSlot));
  ASSERT_NE(first, nullptr);
  ASSERT_NE(second, nullptr);
  const CountersSnapshot both = look();
  EXPECT_EQ(both.server.pool, shape);
  ASSERT_EQ(both.holders.size(), 2U);
  const SessionLease& lease = both.holders[1].lease;
  EXPECT_EQ(lease.asked, (PoolWish{{2 * kSlot, 2 * kSlot, 0}}));
  EXPECT_EQ(lease.extents,
            (std::vector<PoolExtent>{{PoolUse::kInput, kSlot, kSlot},
                                     {PoolUse::kOutput, 5 * kSlot, kSlot}}));  // the quota
  EXPECT_EQ(both.pool.leased_bytes,
            (PerValue<PoolUse, std::uint64_t>{{3 * kSlot / 2, 3 * kSlot / 2, 0}}));
  first->close();
  second->close();
  const Deadline give_up = soon();
  while (look().pool.leased_all_bytes() > 0) ASSERT_FALSE(give_up.expired());
  const CountersSnapshot none = look();
  EXPECT_TRUE(none.holders.empty());
  EXPECT_EQ(none.pool.own[PoolUse::kInput], (PoolFigures::Free{4, 4}));
  EXPECT_EQ(none.pool.high_water_all_bytes, 3 * kSlot);
  EXPECT_EQ(none.pool.granted, 4U);
}

TEST_F(PoolSessionTest, whoever_wants_none_gets_none) {
  start_with({kSlot, {{4, 4, 0}}, 0});
  for (const bool has_ring : {true, false}) {
    ConnectOptions options = has_ring ? client_options() : wishing();
    if (!has_ring) options.ring.choice = RingChoice::kOff;
    auto session = connect(options);
    ASSERT_NE(session, nullptr);
    EXPECT_FALSE(session->policy().has_pool);
    expect_works(*session);
    EXPECT_EQ(used(*session).pool + used(*session).fallbacks, 0U);
  }
}

TEST_F(PoolSessionTest, a_server_without_one_has_none) {
  options_.pool.mode = PoolMode::kOff;
  start();
  auto session = connect(wishing());
  ASSERT_NE(session, nullptr);
  EXPECT_FALSE(session->policy().has_pool);
  expect_works(*session);
  EXPECT_EQ(used(*session), (Used{0, 2, 0}));
}

TEST_F(PoolSessionTest, what_finds_no_room_goes_by_zmq_and_is_counted) {
  start_with({kSlot, {{1, 1, 0}}, 0});
  auto first = connect(wishing());
  ASSERT_NE(first, nullptr);
  auto second = connect(wishing());
  ASSERT_NE(second, nullptr);
  expect_works(*first);
  expect_works(*second);
  EXPECT_EQ(used(*first), (Used{2, 0, 0}));
  EXPECT_EQ(used(*second), (Used{0, 2, 2}));
}

TEST_F(PoolSessionTest, a_lease_ends_with_its_session) {
  start_with({kSlot, {{1, 1, 0}}, 0});
  for (int i = 0; i < 20; ++i) {
    // The one before may be about to end.
    const Deadline give_up = soon();
    Used found;
    while (found.pool == 0 && !give_up.expired()) {
      auto session = connect(wishing());
      ASSERT_NE(session, nullptr);
      expect_works(*session);
      found = used(*session);
    }
    EXPECT_EQ(found.pool, 2U) << i;
  }
}

TEST_F(PoolSessionTest, a_wish_is_met_up_to_the_quota) {
  start_with({kSlot, {{8, 8, 0}}, 0});
  auto session = connect(wishing(std::uint64_t{1} << 40));
  ASSERT_NE(session, nullptr);
  // Operands of 1.9 MB fit in two slots of 1 MiB, results of 2.2 MB do not.
  EXPECT_TRUE(multiply(session->backend(), 5000).ok());
  EXPECT_EQ(used(*session), (Used{1, 1, 1}));
}

TEST_F(PoolSessionTest, a_slot_may_be_larger_than_a_wish) {
  start_with({8 * kSlot, {{1, 1, 0}}, 0});
  auto session = connect(wishing(300'000));
  ASSERT_NE(session, nullptr);
  expect_works(*session);
  EXPECT_EQ(used(*session), (Used{2, 0, 0}));
  EXPECT_TRUE(multiply(session->backend(), 1000).ok());  // 384 and 432 KB
  EXPECT_EQ(used(*session), (Used{2, 2, 2}));
}

TEST_F(PoolSessionTest, is_not_there_over_tcp) {
  options_.endpoint = free_tcp_endpoint();
  options_.ring.choice = RingChoice::kOn;
  start_with({kSlot, {{4, 4, 0}}, 0});
  ConnectOptions options = wishing();
  options.ring.choice = RingChoice::kOn;
  auto session = connect(options);
  ASSERT_NE(session, nullptr);
  EXPECT_FALSE(session->policy().has_pool);
  expect_works(*session);
}

TEST_F(PoolSessionTest, is_refused_where_it_is_larger_than_memory) {
  options_.pool = {PoolMode::kShape, {std::uint64_t{64} << 30, {{4, 4, 4}}, 0}, PoolCommit::kLazy};
  const auto server = Server::bind(options_);
  EXPECT_EQ(server.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(server.status().message().find("--pool off"), std::string::npos)
      << server.status().message();
}

}  // namespace
}  // namespace airlock::testing
