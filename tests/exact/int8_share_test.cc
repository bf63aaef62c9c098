// Int8 weights that several processes make, each those of its share, and the digest of them all.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "runtime/exact/int8_weights.h"
#include "tests/exact/edited_model.h"

namespace airlock {
namespace {

using testing::EditedModel;
using ::testing::IsEmpty;
using testing::MemoryModel;

Int8Model make(const ModelSource& model, Int8Weights choice, const ModelShare* share) {
  const auto pool = ThreadPool::create(2).value();
  return make_int8_weights(model, choice, *pool, {}, {}, share).value();
}

Placement by_layers(const ModelSource& model, std::size_t ranks) {
  return Placement::make(PlacementKind::kLayers, model.config(), ranks, false).value();
}

std::vector<Int8Line> all_lines(const MemoryModel& model) {
  return make(model, Int8Weights::kW8, nullptr).lines;
}

StatusCode code_of_joined(const MemoryModel& model, const std::vector<Int8Line>& lines) {
  return join_int8_lines(Int8Weights::kW8, model.config().dims, lines).status().code();
}

TEST(Int8Share, LinesOfAllSharesMakeTheModelsDigest) {
  const MemoryModel model;
  for (const Int8Weights choice : {Int8Weights::kW8, Int8Weights::kW16, Int8Weights::kAuto}) {
    const Int8Model whole = make(model, choice, nullptr);
    for (const std::size_t ranks : {1, 2, 3, 7}) {
      const Placement placement = by_layers(model, ranks);
      std::vector<Int8Line> lines;
      for (std::size_t rank = ranks; rank-- > 0;) {
        const Int8Model part = make(model, choice, &placement.share(rank));
        EXPECT_THAT(part.digest, IsEmpty());
        lines.insert(lines.end(), part.lines.begin(), part.lines.end());
      }
      EXPECT_EQ(lines.size(), whole.lines.size());
      EXPECT_EQ(join_int8_lines(choice, model.config().dims, lines).value(), whole.digest);
    }
  }
}

TEST(Int8Share, ReadsTheWeightsOfItsLayersAlone) {
  const MemoryModel model;
  const Placement placement = by_layers(model, 2);
  for (std::size_t rank = 0; rank < 2; ++rank) {
    const ModelShare& share = placement.share(rank);
    std::mutex mutex;
    std::set<std::string> read;
    const EditedModel source(model,
                             [&](const std::string& name, std::int64_t, std::int64_t, float value) {
                               const std::lock_guard lock(mutex);
                               if (name.find("norm") == std::string::npos) read.insert(name);
                               return value;
                             });
    const Int8Model made = make(source, Int8Weights::kAuto, &share);
    std::set<std::string> wanted;
    for (std::uint16_t layer = 0; layer < 2; ++layer) {
      EXPECT_EQ(made.layers[layer][Linear::kQkv].columns != 0, share.holds_layer(layer));
      if (!share.holds_layer(layer)) continue;
      for (const WeightKind kind : kValuesOf<WeightKind>) wanted.insert(weight_name({kind, layer}));
    }
    if (!share.lm_head.empty()) wanted.insert(kLmHeadName);
    EXPECT_EQ(read, wanted);
  }
}

TEST(Int8Share, ProgressIsOfWhatItMakes) {
  const MemoryModel model;
  const Placement placement = by_layers(model, 2);
  std::size_t all = 0;
  for (std::size_t rank = 0; rank < 2; ++rank) {
    std::size_t last = 0;
    const auto pool = ThreadPool::create(1).value();
    const auto note = [&](std::size_t done, std::size_t total) {
      EXPECT_LE(done, total);
      EXPECT_EQ(total,
                most_int8_bytes(model.config().dims, Int8Weights::kW16, &placement.share(rank)));
      last = done;
    };
    ASSERT_TRUE(
        make_int8_weights(model, Int8Weights::kW16, *pool, {}, note, &placement.share(rank)).ok());
    all += last;
  }
  EXPECT_EQ(all, most_int8_bytes(model.config().dims, Int8Weights::kW16));
}

TEST(Int8Share, ALineThatIsMissingOrOfNoLinearIsRefused) {
  const MemoryModel model;
  const std::vector<Int8Line> lines = all_lines(model);
  ASSERT_EQ(code_of_joined(model, lines), StatusCode::kOk);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    std::vector<Int8Line> fewer = lines;
    fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
    EXPECT_EQ(code_of_joined(model, fewer), StatusCode::kInvalidInput) << i;
  }
  std::vector<Int8Line> wrong = lines;
  wrong.push_back({lines.size(), lines[0].digest});
  EXPECT_EQ(code_of_joined(model, wrong), StatusCode::kInvalidInput);
  wrong.back() = {0, ""};
  EXPECT_EQ(code_of_joined(model, wrong), StatusCode::kInvalidInput);
}

TEST(Int8Share, WhatWasMadeTwiceMustBeTheSame) {
  const MemoryModel model;
  std::vector<Int8Line> lines = all_lines(model);
  lines.push_back(lines[3]);
  EXPECT_EQ(join_int8_lines(Int8Weights::kW8, model.config().dims, lines).value(),
            make(model, Int8Weights::kW8, nullptr).digest);
  lines.back().digest = lines[4].digest;
  EXPECT_EQ(code_of_joined(model, lines), StatusCode::kMismatch);
}

}  // namespace
}  // namespace airlock
