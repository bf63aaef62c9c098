#include "runtime/cpu/numerics.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "base/convert.h"

namespace airlock {
namespace {

TEST(Numerics, rounds_to_the_weights_type_before_it_is_held_in_fp32) {
  Tensor in(TensorDesc{DType::kF32, Shape{3}});
  in.as<float>()[0] = 1.0F + 0x1p-12F;  // not in fp16
  in.as<float>()[1] = 70000.0F;         // over fp16's range
  in.as<float>()[2] = -0.5F;
  Tensor out(TensorDesc{DType::kF32, Shape{3}});
  hold_block({DType::kF16, DType::kF32}, DType::kF32, in.view().data, out.mutable_view().data, 3);
  EXPECT_EQ(out.as<float>()[0], 1.0F);
  EXPECT_EQ(out.as<float>()[1], std::numeric_limits<float>::infinity());
  EXPECT_EQ(out.as<float>()[2], -0.5F);
}

TEST(Numerics, takes_operands_in_place_only_where_nothing_is_to_be_rounded) {
  EXPECT_TRUE((Numerics{DType::kF32, DType::kF32}.takes(DType::kF32)));
  EXPECT_TRUE((Numerics{DType::kBF16, DType::kBF16}.takes(DType::kBF16)));
  EXPECT_FALSE((Numerics{DType::kBF16, DType::kBF16}.takes(DType::kF32)));
  EXPECT_FALSE((Numerics{DType::kF16, DType::kF32}.takes(DType::kF32)));
  EXPECT_FALSE((Numerics{DType::kF16, DType::kF32}.takes(DType::kF16)));
}

TEST(Numerics, rounds_long_tensors_like_short_ones) {
  constexpr std::int64_t kCount = (1 << 13) + 77;
  Tensor in(TensorDesc{DType::kF32, Shape{kCount}});
  for (std::size_t i = 0; i < in.desc().elements(); ++i)
    in.as<float>()[i] = 1.0F / static_cast<float>(i + 1);
  Tensor out(TensorDesc{DType::kBF16, Shape{kCount}});
  hold_block({DType::kBF16, DType::kBF16}, DType::kF32, in.view().data, out.mutable_view().data,
             in.desc().elements());
  Tensor want(out.desc());
  convert(in.view(), want.mutable_view());
  EXPECT_TRUE(std::ranges::equal(out.as<std::uint16_t>(), want.as<std::uint16_t>()));
}

TEST(Numerics, gathers_the_rows_that_are_named) {
  Tensor table(TensorDesc{DType::kF32, Shape{10, 512}});
  for (std::size_t i = 0; i < table.desc().elements(); ++i)
    table.as<float>()[i] = static_cast<float>(i / 512);
  std::vector<std::int32_t> ids(1000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 7 % 10);
  Tensor out(TensorDesc{DType::kF32, Shape{1000, 512}});
  gather_rows(table.view(), ids, out.mutable_view());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ASSERT_EQ(out.as<float>()[i * 512], static_cast<float>(ids[i]));
    ASSERT_EQ(out.as<float>()[i * 512 + 511], static_cast<float>(ids[i]));
  }
}

}  // namespace
}  // namespace airlock
