#include "proto/path.h"

#include <gmock/gmock.h>

#include <vector>

namespace airlock {
namespace {

using testing::ElementsAre;

constexpr PathPolicy kPolicy{true, 10485760, 8};

std::vector<Path> paths_of(const PathPolicy& policy, std::vector<std::size_t> sizes) {
  return choose_paths(policy, sizes);
}

TEST(PathPolicy, strictly_under_the_limit_takes_the_ring) {
  EXPECT_THAT(paths_of(kPolicy, {10485759}), ElementsAre(Path::kRing));
  EXPECT_THAT(paths_of(kPolicy, {10485760}), ElementsAre(Path::kZmq));
  EXPECT_THAT(paths_of(kPolicy, {10485761}), ElementsAre(Path::kZmq));
  EXPECT_THAT(paths_of(kPolicy, {0}), ElementsAre(Path::kRing));
}

TEST(PathPolicy, tensors_beyond_half_the_slots_go_by_zmq) {
  const auto paths = paths_of(kPolicy, {1, 1, 1, 1, 1, 1});
  EXPECT_THAT(paths, ElementsAre(Path::kRing, Path::kRing, Path::kRing, Path::kRing, Path::kZmq,
                                 Path::kZmq));
  EXPECT_EQ(slots_needed(kPolicy, paths), 4u);
}

TEST(PathPolicy, large_tensors_take_no_slot_from_small_ones) {
  const auto paths = paths_of(kPolicy, {10485760, 1, 20000000, 1, 1, 1});
  EXPECT_THAT(paths, ElementsAre(Path::kZmq, Path::kRing, Path::kZmq, Path::kRing, Path::kRing,
                                 Path::kRing));
}

TEST(PathPolicy, without_a_ring_everything_goes_by_zmq) {
  const PathPolicy policy{false, 10485760, 0};
  EXPECT_THAT(paths_of(policy, {0, 1, 10485760}), ElementsAre(Path::kZmq, Path::kZmq, Path::kZmq));
  EXPECT_EQ(header_path(policy), Path::kZmq);
  EXPECT_EQ(slots_needed(policy, paths_of(policy, {1})), 0u);
}

TEST(PathPolicy, header_takes_one_slot_even_without_ring_tensors) {
  EXPECT_EQ(header_path(kPolicy), Path::kRing);
  EXPECT_EQ(slots_needed(kPolicy, {}), 1u);
  EXPECT_EQ(slots_needed(kPolicy, paths_of(kPolicy, {10485760})), 1u);
  EXPECT_EQ(slots_needed(kPolicy, paths_of(kPolicy, {1, 1})), 2u);
}

}  // namespace
}  // namespace airlock
