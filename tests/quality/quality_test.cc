// What int8 rows and the integers of the private modes cost of a model's logits: held to issue 13's
// bars, on few windows of the texts that bench/quality measures on all of. (SmolLM2's perplexity in
// w8 misses its bar and is not held to it here: bench/results.)
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/quality/subject.h"

namespace airlock::testing {
namespace {

namespace fs = std::filesystem;

constexpr double kOutlierMostKl = 1e-3;
constexpr double kBrokenLeastKl = 1e-2;

Subject opened(const fs::path& folder, const std::string& text, std::size_t windows) {
  return Subject::open(folder, text, 1, windows).value();
}

#define SKIP_WITHOUT(folder, what)                 \
  if (!fs::exists((folder) / "model.safetensors")) \
  GTEST_SKIP() << "SKIPPED: no model in " << (folder) << "; " << (what)
#define SKIP_WITHOUT_KJV() \
  SKIP_WITHOUT(text_kjv(), "set AIRLOCK_SHARED to the folder that holds golden/")

TEST(Quality, OneByteAWeightKeepsTextKjvsLogits) {
  SKIP_WITHOUT_KJV();
  const auto got = opened(text_kjv(), "kjv.txt", 4).compare(Way::kW8);
  EXPECT_LE(got.mean_kl, 3e-4);
  EXPECT_GT(got.mean_kl, 1e-6) << "it is not computed in int8";
  EXPECT_NEAR(got.perplexity_ratio, 1, 0.0015);
  EXPECT_GE(got.top_equal, 0.985);
  EXPECT_GT(got.clear_positions, got.positions / 2);
  EXPECT_EQ(got.clear_top_differs, 0U);
}

TEST(Quality, TwoBytesAWeightAreNearlyFp32) {
  SKIP_WITHOUT_KJV();
  const auto got = opened(text_kjv(), "kjv.txt", 4).compare(Way::kW16);
  EXPECT_LE(got.mean_kl, 1e-6);
  EXPECT_GT(got.mean_kl, 1e-10) << "it is not computed in integers";
  EXPECT_GE(got.top_equal, 0.999);
}

// What docs/INTERFACE.md says of --wire int8: clear choices are kept.
TEST(Quality, Int8RowsKeepTextKjvsClearChoices) {
  SKIP_WITHOUT_KJV();
  const auto got = opened(text_kjv(), "kjv.txt", 4).compare(Way::kBf16WireInt8);
  EXPECT_LE(got.mean_kl, 1.5e-3);
  EXPECT_GT(got.mean_kl, 1e-4) << "nothing crossed as int8";
  EXPECT_GE(got.top_equal, 0.95);
  EXPECT_EQ(got.clear_top_differs, 0U);
}

TEST(Quality, Int8RowsLoseNoMoreOfASmallChatModelThanIsSaid) {
  SKIP_WITHOUT(smollm2(), "tools/fetch_model smollm2");
  const auto got = opened(smollm2(), "alice.txt", 1).compare(Way::kBf16WireInt8);
  EXPECT_LE(got.mean_kl, 2.5e-2);
  EXPECT_GE(got.top_equal, 0.88);
  EXPECT_LE(got.clear_top_differs, 2U);
}

TEST(Quality, OfASmallChatModelIsKept) {
  SKIP_WITHOUT(smollm2(), "tools/fetch_model smollm2");
  const Subject subject = opened(smollm2(), "alice.txt", 1);
  const auto w8 = subject.compare(Way::kW8);
  EXPECT_LE(w8.mean_kl, 7e-3);
  EXPECT_EQ(w8.clear_top_differs, 0U);
  EXPECT_GE(w8.top_equal, 0.95);
  const auto w16 = subject.compare(Way::kW16);
  EXPECT_LE(w16.mean_kl, 1e-6);
  EXPECT_GE(w16.top_equal, 0.999);
}

TEST(Quality, OutlierChannelsBreakOtherRulesAndNotOurs) {
  SKIP_WITHOUT_KJV();
  const Subject subject = opened(text_kjv(), "kjv.txt", 1);
  for (const double factor : {128.0, 1024.0, 1.0 / 128}) {
    SCOPED_TRACE(factor);
    const OutlierKl kl = outlier_kl(subject, {.factors = {factor}});
    EXPECT_EQ(kl.exact, 0) << "it is another function";
    EXPECT_LE(kl.w8, kOutlierMostKl);
    EXPECT_GT(kl.mean, kBrokenLeastKl);
    EXPECT_GT(kl.absmax, kBrokenLeastKl);
  }
}

TEST(Quality, OneSpikeALayerBreaksOtherRulesAndNotOurs) {
  SKIP_WITHOUT_KJV();
  const Subject subject = opened(text_kjv(), "kjv.txt", 1);
  const OutlierKl kl = outlier_kl(
      subject, {.factors = {1000}, .norm_channels = 1, .up_channels = 0, .value_channels = 0});
  EXPECT_LE(kl.exact, 1e-10) << "it is another function";
  EXPECT_LE(kl.w8, kOutlierMostKl);
  EXPECT_GT(kl.absmax, kBrokenLeastKl);
}

// What breaks them is the outliers: without any they do what int8 does.
TEST(Quality, OtherRulesWorkWhereThereAreNoOutliers) {
  SKIP_WITHOUT_KJV();
  const OutlierKl kl = outlier_kl(opened(text_kjv(), "kjv.txt", 1), {.factors = {1}});
  EXPECT_EQ(kl.exact, 0);
  EXPECT_LE(kl.mean, kOutlierMostKl);
  EXPECT_LE(kl.absmax, 5e-3);
}

}  // namespace
}  // namespace airlock::testing
