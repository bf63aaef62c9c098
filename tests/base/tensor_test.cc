#include "base/tensor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

namespace airlock {
namespace {

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

TEST(DType, names_are_parsed_back) {
  EXPECT_EQ(kCountOf<DType>, 8U);
  for (const DType dtype : kValuesOf<DType>) EXPECT_EQ(from_name<DType>(name_of(dtype)), dtype);
  EXPECT_FALSE(from_name<DType>("float32").has_value());
  EXPECT_FALSE(from_name<DType>("").has_value());
}

TEST(DType, sizes_and_kinds) {
  EXPECT_EQ(dtype_bytes(DType::kF32), 4U);
  EXPECT_EQ(dtype_bytes(DType::kBF16), 2U);
  EXPECT_EQ(dtype_bytes(DType::kU8), 1U);
  EXPECT_TRUE(is_model_float(DType::kF16));
  EXPECT_FALSE(is_model_float(DType::kI32));
}

TEST(Shape, counts_elements_and_bytes) {
  const Shape shape{2, 3, 4};
  EXPECT_EQ(shape.element_count(), 24U);
  EXPECT_EQ(shape.byte_count(DType::kF16), 48U);
  EXPECT_EQ(shape.to_string(), "[2, 3, 4]");
}

TEST(Shape, rank_zero_is_one_element) { EXPECT_EQ(Shape().element_count(), 1U); }

TEST(Shape, an_empty_extent_makes_it_empty) {
  EXPECT_EQ((Shape{5, 0}).byte_count(DType::kF32), 0U);
}

TEST(Shape, elements_that_overflow_are_none) {
  EXPECT_FALSE((Shape{kHuge, kHuge}).element_count().has_value());
  EXPECT_FALSE((Shape{std::int64_t{1} << 32, std::int64_t{1} << 32}).element_count().has_value());
  EXPECT_FALSE((Shape{kHuge, 2, 2, 1}).element_count().has_value());
}

TEST(Shape, bytes_that_overflow_are_none) {
  const Shape shape{kHuge, 2};
  EXPECT_TRUE(shape.element_count().has_value());
  EXPECT_FALSE(shape.byte_count(DType::kF32).has_value());
}

TEST(Shape, from_outside_refuses_rank_five_and_negative_extents) {
  constexpr std::array<std::int64_t, 5> kFive = {1, 1, 1, 1, 1};
  EXPECT_FALSE(Shape::make(kFive).has_value());
  constexpr std::array<std::int64_t, 2> kNegative = {3, -1};
  EXPECT_FALSE(Shape::make(kNegative).has_value());
  EXPECT_EQ(Shape::make(std::span(kFive).first(2)), (Shape{1, 1}));
}

TEST(Shape, of_another_rank_is_another_shape) {
  EXPECT_NE((Shape{2}), (Shape{2, 1}));
  EXPECT_NE((Shape{2, 3}), (Shape{3, 2}));
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
}

TEST(Tensor, is_zero_and_aligned_after_construction) {
  const Tensor tensor(TensorDesc{DType::kF32, Shape{3, 5}});
  const auto values = tensor.as<float>();
  EXPECT_EQ(values.size(), 15U);
  EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float value) { return value == 0.0F; }));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.view().data) % 64, 0U);
}

TEST(Tensor, keeps_its_data_when_it_is_moved) {
  Tensor tensor(TensorDesc{DType::kI32, Shape{2}});
  tensor.as<std::int32_t>()[1] = 7;
  const std::byte* data = tensor.view().data;
  const Tensor moved = std::move(tensor);
  EXPECT_EQ(moved.view().data, data);
  EXPECT_EQ(moved.as<std::int32_t>()[1], 7);
}

}  // namespace
}  // namespace airlock
