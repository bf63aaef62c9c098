#include "pool/shape.h"

#include <gtest/gtest.h>

namespace airlock {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

TEST(PoolShape, each_profile_is_one_and_has_its_size) {
  const std::uint64_t sizes[] = {512, 1024, 4096, 8192, 16384};
  for (const PoolProfile profile : kValuesOf<PoolProfile>) {
    EXPECT_TRUE(check_shape(shape_of(profile)).ok()) << name_of(profile);
    EXPECT_EQ(shape_of(profile).bytes(), sizes[index_of(profile)] * kMiB) << name_of(profile);
  }
  EXPECT_EQ(shape_of(PoolProfile::kLow).to_string(),
            "8 slots of 64 MiB: 2 in, 2 out, 2 scratch, 2 spare");
}

TEST(PoolShape, a_session_has_a_quarter_and_one_at_least) {
  EXPECT_EQ(shape_of(PoolProfile::kLow).quota(PoolUse::kInput), 1u);
  EXPECT_EQ(shape_of(PoolProfile::kStandard).quota(PoolUse::kInput), 1u);
  EXPECT_EQ(shape_of(PoolProfile::kLarge).quota(PoolUse::kOutput), 2u);
  EXPECT_EQ(shape_of(PoolProfile::kLarge).quota(PoolUse::kScratch), 4u);
  EXPECT_EQ((PoolShape{1 << 20, {{1, 0, 0}}, 1}).quota(PoolUse::kScratch), 1u);
  EXPECT_EQ((PoolShape{1 << 20, {{1, 0, 0}}, 0}).quota(PoolUse::kScratch), 0u);
}

TEST(PoolShape, of_a_size_is_not_larger) {
  for (const std::uint64_t bytes : {kMiB, 100 * kMiB, 777 * kMiB, 5000 * kMiB + 1}) {
    const PoolShape shape = shape_of_bytes(bytes).value();
    EXPECT_LE(shape.bytes(), bytes);
    EXPECT_GT(shape.bytes() + 16 * 2 * kMiB, bytes);
    EXPECT_EQ(shape.slot_count(), 16u);
  }
  for (const std::uint64_t bytes : {std::uint64_t{0}, std::uint64_t{1000}, UINT64_MAX})
    EXPECT_EQ(shape_of_bytes(bytes).status().code(), StatusCode::kInvalidInput);
}

TEST(PoolShape, has_limits) {
  const auto ok = [](const PoolShape& shape) { return check_shape(shape).ok(); };
  EXPECT_TRUE(ok({64 << 10, {{1, 0, 0}}, 0}));
  EXPECT_TRUE(ok({64 << 10, {{0, 0, 0}}, 1}));
  EXPECT_FALSE(ok({64 << 10, {{0, 0, 0}}, 0}));
  EXPECT_FALSE(ok({(64 << 10) + 1, {{1, 1, 1}}, 0}));
  EXPECT_FALSE(ok({4096, {{1, 1, 1}}, 0}));
  EXPECT_FALSE(ok({64 << 10, {{1024, 1, 0}}, 0}));
  EXPECT_FALSE(ok({std::uint64_t{32} << 30, {{1000, 0, 0}}, 0}));
  EXPECT_FALSE(ok({64 << 10, {{UINT32_MAX, UINT32_MAX, UINT32_MAX}}, UINT32_MAX}));
}

TEST(PoolProfile, is_the_largest_that_takes_a_quarter) {
  EXPECT_EQ(choose_profile(0), std::nullopt);
  EXPECT_EQ(choose_profile(2048 * kMiB - 1), std::nullopt);
  EXPECT_EQ(choose_profile(2048 * kMiB), PoolProfile::kLow);
  EXPECT_EQ(choose_profile(16384 * kMiB), PoolProfile::kStandard);
  EXPECT_EQ(choose_profile(UINT64_MAX), PoolProfile::kHuge);
}

}  // namespace
}  // namespace airlock
