#include "runtime/compute.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <limits>

namespace airlock {
namespace {

constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

OpTimes balanced(OpTimes times) {
  balance(times);
  return times;
}

TEST(OpTimes, wire_is_what_the_other_parts_leave_of_the_total) {
  const OpTimes times =
      balanced({.total_ns = 100, .tee_ns = 10, .wire_ns = 7777, .queue_ns = 20, .server_ns = 30});
  EXPECT_EQ(
      times,
      (OpTimes{.total_ns = 100, .tee_ns = 10, .wire_ns = 40, .queue_ns = 20, .server_ns = 30}));
}

TEST(OpTimes, a_servers_words_are_bounded_by_what_is_left) {
  EXPECT_EQ(balanced({.total_ns = 100, .tee_ns = 10, .queue_ns = kMost, .server_ns = kMost}),
            (OpTimes{.total_ns = 100, .tee_ns = 10, .queue_ns = 90}));
  EXPECT_EQ(balanced({.total_ns = 100, .tee_ns = 10, .queue_ns = 30, .server_ns = kMost}),
            (OpTimes{.total_ns = 100, .tee_ns = 10, .queue_ns = 30, .server_ns = 60}));
  EXPECT_EQ(balanced({.total_ns = 5, .tee_ns = 10}), (OpTimes{.total_ns = 5, .tee_ns = 5}));
}

TEST(OpTimes, parts_on_a_device_stay_as_they_are) {
  const DeviceTimes device{1, 2, 3};
  EXPECT_EQ(balanced({.total_ns = 1, .server_ns = 6, .device = device}).device, device);
}

/// check_memory() of a product, with one thing wrong.
class CheckMemoryDeathTest : public ::testing::Test {
 protected:
  const TensorDesc x_{DType::kF32, Shape{2, 4}};
  const OpSpec spec_ = linear_spec({{WeightKind::kQ, 0}}, x_, DType::kF32);
  Tensor input_{x_};
  Tensor result_{x_};
};

TEST_F(CheckMemoryDeathTest, takes_what_fits) {
  check_memory(spec_, {{input_.view()}, {result_.mutable_view()}});
}

TEST_F(CheckMemoryDeathTest, ends_at_inputs_that_the_spec_does_not_name) {
  TensorView narrow = input_.view();
  narrow.desc.shape = Shape{2, 3};
  for (const std::vector<TensorView>& inputs :
       {std::vector<TensorView>{}, {input_.view(), input_.view()}, {narrow}}) {
    EXPECT_DEATH(check_memory(spec_, {inputs, {result_.mutable_view()}}), "CHECK failed");
  }
}

TEST_F(CheckMemoryDeathTest, takes_columns_of_a_wider_result) {
  Tensor wide({DType::kF32, Shape{2, 10}});
  const std::vector<MutableTensorView> columns{{wide.mutable_view().data + 8, x_}};
  check_memory(spec_, {{input_.view()}, columns, {}});
  check_memory(spec_, {{input_.view()}, columns, {0}});
  const OpMemory memory{{input_.view()}, columns, {40}};
  check_memory(spec_, memory);
  EXPECT_FALSE(memory.is_dense(0));
  EXPECT_EQ(memory.result_pitch(0), 40U);
  EXPECT_EQ(memory.result_extent(0), 56U);
  // Less than a row, no whole elements, not one for each result.
  for (const std::vector<std::size_t>& pitches :
       {std::vector<std::size_t>{12}, std::vector<std::size_t>{42},
        std::vector<std::size_t>{40, 40}})
    EXPECT_DEATH(check_memory(spec_, {{input_.view()}, columns, pitches}), "CHECK failed");
}

TEST_F(CheckMemoryDeathTest, ends_where_elements_cannot_lie) {
  const MutableTensorView odd{result_.mutable_view().data + 1, x_};
  const MutableTensorView null{nullptr, x_};
  for (const MutableTensorView& bad : {odd, null}) {
    EXPECT_DEATH(check_memory(spec_, {{bad}, {result_.mutable_view()}}), "CHECK failed");
    EXPECT_DEATH(check_memory(spec_, {{input_.view()}, {bad}}), "CHECK failed");
  }
}

TEST_F(CheckMemoryDeathTest, ends_at_an_op_that_is_not_computed) {
  EXPECT_DEATH(check_memory(OpSpec{}, {}), "CHECK failed");
}

TEST(ReadTokenIds, names_the_first_one_outside_the_vocabulary) {
  const std::array<std::int32_t, 3> ids{0, 9, 10};
  const TensorView view{reinterpret_cast<const std::byte*>(ids.data()), {DType::kI32, Shape{3}}};
  EXPECT_EQ(read_token_ids(view, 11).value(), (std::vector<std::int32_t>{0, 9, 10}));
  const auto refused = read_token_ids(view, 10);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidInput);
  EXPECT_NE(refused.status().message().find("10 at position 2"), std::string::npos);
}

}  // namespace
}  // namespace airlock
