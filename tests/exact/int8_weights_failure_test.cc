// What make_int8_weights() does with models, sinks and callers that are not as they should be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "runtime/exact/int8_weights.h"
#include "tests/exact/edited_model.h"

namespace airlock {
namespace {

using testing::EditedModel;
using ::testing::HasSubstr;
using testing::MemoryModel;

Result<Int8Model> make(const ModelSource& model, Int8Weights choice = Int8Weights::kW8,
                       const Int8Sink& sink = {}) {
  const auto pool = ThreadPool::create(2).value();
  return make_int8_weights(model, choice, *pool, sink);
}

/// Of the model with `bad` in the last place of `tensor`.
Status with_value(const std::string& tensor, float bad, Int8Weights choice) {
  const MemoryModel model;
  const Shape shape = model.shape(tensor);
  const EditedModel edited(
      model, [&](const std::string& name, std::int64_t row, std::int64_t column, float value) {
        const bool last = row == shape[0] - 1 && column == shape[1] - 1;
        return name == tensor && last ? bad : value;
      });
  return make(edited, choice).status();
}

TEST(Int8WeightsFailure, AWeightThatIsNotFiniteIsRefusedByName) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const std::string tensor :
       {"model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight",
        "model.layers.1.self_attn.o_proj.weight", "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.mlp.down_proj.weight", "lm_head.weight"}) {
    for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
      const Status status = with_value(tensor, bad, Int8Weights::kAuto);
      EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
      EXPECT_THAT(status.message(), HasSubstr(tensor));
    }
  }
}

TEST(Int8WeightsFailure, ANormThatIsNotFiniteIsRefused) {
  for (const std::string tensor : {"model.layers.1.input_layernorm.weight", "model.norm.weight"}) {
    const Status status =
        with_value(tensor, std::numeric_limits<float>::quiet_NaN(), Int8Weights::kW8);
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
    EXPECT_THAT(status.message(), HasSubstr("norm"));
  }
}

// The other columns' tiny gammas make the mean of the exponents small, so that the large column is
// folded up.
TEST(Int8WeightsFailure, AWeightTooLargeForAScaleIsRefused) {
  const MemoryModel model;
  const EditedModel edited(
      model, [](const std::string& name, std::int64_t, std::int64_t column, float value) {
        if (name == "model.norm.weight") return column == 2 ? 0x1p126F : value * 0x1p-100F;
        return name == kLmHeadName && column == 2 ? 0x1p126F : value;
      });
  const Status refused = make(edited).status();
  EXPECT_EQ(refused.code(), StatusCode::kInvalidInput);
  EXPECT_THAT(refused.message(), HasSubstr("lm_head.weight is too large"));
}

TEST(Int8WeightsFailure, WhatTheSourceSaysIsPassedOn) {
  for (const std::string tensor : {"model.layers.1.mlp.gate_proj.weight", "lm_head.weight"}) {
    MemoryModel::Options options;
    options.broken_tensor = tensor;
    const Status status = make(MemoryModel(options)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
    EXPECT_THAT(status.message(), HasSubstr("this tensor is broken"));
  }
}

TEST(Int8WeightsFailure, WhatTheSinkSaysIsPassedOnAndEndsIt) {
  std::atomic<int> calls = 0;
  const Status status = make(MemoryModel(), Int8Weights::kW8, [&](const Int8Rows& rows) -> Status {
                          ++calls;
                          if (rows.linear == Linear::kQkv) return {};
                          return {StatusCode::kResourceExhausted, "full"};
                        }).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "full");
  // Three of q, k, v, and of the rest one a thread.
  EXPECT_LE(calls, 5);
}

TEST(Int8WeightsFailure, EveryTensorOfALayerIsReleasedOnce) {
  const MemoryModel model;
  ASSERT_TRUE(make(model).ok());
  const auto releases = model.releases();
  EXPECT_EQ(releases.size(), 15U);
  for (const auto& [name, count] : releases) EXPECT_EQ(count, 1) << name;
  EXPECT_TRUE(releases.contains("lm_head.weight"));
}

TEST(Int8WeightsFailure, ProgressGrowsToAllOnTheCallersThread) {
  for (const Int8Weights choice : {Int8Weights::kW8, Int8Weights::kW16, Int8Weights::kAuto}) {
    const MemoryModel model;
    const auto pool = ThreadPool::create(3).value();
    std::vector<std::size_t> done;
    std::size_t total = 0;
    const auto caller = std::this_thread::get_id();
    const auto made = make_int8_weights(model, choice, *pool, {},
                                        [&](std::size_t done_bytes, std::size_t total_bytes) {
                                          EXPECT_EQ(std::this_thread::get_id(), caller);
                                          EXPECT_LE(done_bytes, total_bytes);
                                          done.push_back(done_bytes);
                                          total = total_bytes;
                                        });
    ASSERT_TRUE(made.ok());
    EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
    EXPECT_EQ(done.back(), total);
    const bool two = choice == Int8Weights::kW16;
    EXPECT_EQ(total,
              most_int8_bytes(model.config().dims, two ? Int8Weights::kW16 : Int8Weights::kW8));
  }
}

}  // namespace
}  // namespace airlock
