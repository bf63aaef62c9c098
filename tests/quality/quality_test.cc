// What the integers of the private modes cost of a model's logits: held to issue 13's bars, on few
// windows of the texts that bench/quality measures on all of.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/readable_file.h"
#include "tee_runner/tokenizer/tokenizer.h"
#include "tests/quality/closeness.h"
#include "tests/quality/computed_llama.h"
#include "tests/quality/naive_rounding.h"
#include "tests/quality/outliers.h"

namespace airlock::testing {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

constexpr std::size_t kWindowTokens = 256;
constexpr double kOutlierMostKl = 1e-3;
constexpr double kBrokenLeastKl = 1e-2;

/// Where the golden models lie: beside this tree, or where AIRLOCK_SHARED says.
fs::path text_kjv() {
  const char* shared = std::getenv("AIRLOCK_SHARED");
  const fs::path root = shared != nullptr ? fs::path(shared)
                                          : fs::path(AIRLOCK_SOURCE_DIR) / ".." / "shared" / "data";
  return root / "golden" / "text-kjv";
}

/// Where tools/fetch_model puts it.
fs::path smollm2() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const fs::path root = cache != nullptr ? fs::path(cache) : fs::path(home ? home : "/") / ".cache";
  return root / "airlock" / "models" / "smollm2";
}

/// A model, some windows of a text as its tokens, and its logits in fp32.
class Subject {
 public:
  Subject(const fs::path& folder, const std::string& text, std::size_t windows)
      : model_(open_model_directory(folder.string()).value()) {
    const fs::path path = fs::path(AIRLOCK_SOURCE_DIR) / "bench" / "data" / text;
    const auto tokenizer = Tokenizer::open(folder.string()).value();
    const Ids ids = tokenizer
                        ->encode(read_text_file(path.string(), std::uint64_t{1} << 20).value(),
                                 Specials::kPlain, Around::kNothing)
                        .value();
    const auto exact = ComputedLlama::create(*model_, Way::kF32).value();
    for (std::size_t i = 0; i < windows; ++i) {
      const auto start = ids.begin() + static_cast<std::ptrdiff_t>(i * kWindowTokens);
      windows_.emplace_back(start, start + kWindowTokens);
      logits_.push_back(exact->logits(windows_.back()).value());
    }
  }
  const ModelSource& model() const { return *model_; }

  /// Of another model of the same function, or of this one.
  Closeness::Figures compare(const ModelSource& model, Backend& backend) const {
    Closeness closeness;
    for (std::size_t i = 0; i < windows_.size(); ++i) {
      const Tensor got = all_logits(model, backend, DType::kF32, 1, windows_[i]).value();
      closeness.add(windows_[i], logits_[i].as<float>(), got.as<float>());
    }
    return closeness.figures();
  }
  Closeness::Figures compare(Way way) const {
    const auto llama = ComputedLlama::create(*model_, way).value();
    return compare(*model_, llama->backend());
  }

 private:
  std::unique_ptr<ModelSource> model_;
  std::vector<Ids> windows_;
  std::vector<Tensor> logits_;
};

#define SKIP_WITHOUT(folder, what)                 \
  if (!fs::exists((folder) / "model.safetensors")) \
  GTEST_SKIP() << "SKIPPED: no model in " << (folder) << "; " << (what)
#define SKIP_WITHOUT_KJV() \
  SKIP_WITHOUT(text_kjv(), "set AIRLOCK_SHARED to the folder that holds golden/")

TEST(Quality, OneByteAWeightKeepsTextKjvsLogits) {
  SKIP_WITHOUT_KJV();
  const auto got = Subject(text_kjv(), "kjv.txt", 4).compare(Way::kW8);
  EXPECT_LE(got.mean_kl, 3e-4);
  EXPECT_GT(got.mean_kl, 1e-6) << "it is not computed in int8";
  EXPECT_NEAR(got.perplexity_ratio, 1, 0.0015);
  EXPECT_GE(got.top_equal, 0.985);
  EXPECT_GT(got.clear_positions, got.positions / 2);
  EXPECT_EQ(got.clear_top_differs, 0U);
}

TEST(Quality, TwoBytesAWeightAreNearlyFp32) {
  SKIP_WITHOUT_KJV();
  const auto got = Subject(text_kjv(), "kjv.txt", 4).compare(Way::kW16);
  EXPECT_LE(got.mean_kl, 1e-6);
  EXPECT_GT(got.mean_kl, 1e-10) << "it is not computed in integers";
  EXPECT_GE(got.top_equal, 0.999);
}

TEST(Quality, OfASmallChatModelIsKept) {
  SKIP_WITHOUT(smollm2(), "tools/fetch_model smollm2");
  const Subject subject(smollm2(), "alice.txt", 1);
  const auto w8 = subject.compare(Way::kW8);
  EXPECT_LE(w8.mean_kl, 7e-3);
  EXPECT_EQ(w8.clear_top_differs, 0U);
  EXPECT_GE(w8.top_equal, 0.95);
  const auto w16 = subject.compare(Way::kW16);
  EXPECT_LE(w16.mean_kl, 1e-6);
  EXPECT_GE(w16.top_equal, 0.999);
}

/// KL of a model with outliers in integers, and by the rules that the product has not.
struct OutlierKl {
  double exact;   // in fp32
  double w8;      // the product
  double mean;    // weights without a scale of the columns
  double absmax;  // and activations by their largest
};

OutlierKl kl_of(const Subject& subject, const Outliers& outliers) {
  const OutlierModel changed(subject.model(), outliers);
  const RoundedModel rounded(changed);
  const auto exact = ComputedLlama::create(changed, Way::kF32).value();
  const auto w8 = ComputedLlama::create(changed, Way::kW8).value();
  const auto plain = ComputedLlama::create(rounded, Way::kF32).value();
  RoundingBackend mean(plain->backend(), exact->backend(),
                       {.scale = ActivationRule::Scale::kMean, .units = 512});
  RoundingBackend absmax(plain->backend(), exact->backend(),
                         {.scale = ActivationRule::Scale::kAbsmax, .units = kInt8Most});
  const auto kl = [&](Backend& backend) { return subject.compare(changed, backend).mean_kl; };
  return {kl(exact->backend()), kl(w8->backend()), kl(mean), kl(absmax)};
}

TEST(Quality, OutlierChannelsBreakOtherRulesAndNotOurs) {
  SKIP_WITHOUT_KJV();
  const Subject subject(text_kjv(), "kjv.txt", 1);
  for (const double factor : {128.0, 1024.0, 1.0 / 128}) {
    SCOPED_TRACE(factor);
    const OutlierKl kl = kl_of(subject, {.factors = {factor}});
    EXPECT_EQ(kl.exact, 0) << "it is another function";
    EXPECT_LE(kl.w8, kOutlierMostKl);
    EXPECT_GT(kl.mean, kBrokenLeastKl);
    EXPECT_GT(kl.absmax, kBrokenLeastKl);
  }
}

TEST(Quality, OneSpikeALayerBreaksOtherRulesAndNotOurs) {
  SKIP_WITHOUT_KJV();
  const Subject subject(text_kjv(), "kjv.txt", 1);
  const OutlierKl kl = kl_of(
      subject, {.factors = {1000}, .norm_channels = 1, .up_channels = 0, .value_channels = 0});
  EXPECT_LE(kl.exact, 1e-10) << "it is another function";
  EXPECT_LE(kl.w8, kOutlierMostKl);
  EXPECT_GT(kl.absmax, kBrokenLeastKl);
}

// What breaks them is the outliers: without any they do what int8 does.
TEST(Quality, OtherRulesWorkWhereThereAreNoOutliers) {
  SKIP_WITHOUT_KJV();
  const OutlierKl kl = kl_of(Subject(text_kjv(), "kjv.txt", 1), {.factors = {1}});
  EXPECT_EQ(kl.exact, 0);
  EXPECT_LE(kl.mean, kOutlierMostKl);
  EXPECT_LE(kl.absmax, 5e-3);
}

}  // namespace
}  // namespace airlock::testing
