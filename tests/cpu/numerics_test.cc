#include "runtime/cpu/numerics.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "base/convert.h"

namespace airlock {
namespace {

TEST(Numerics, rounds_to_the_weights_type_before_it_is_held_in_fp32) {
  ThreadPool pool(1);
  Tensor in(TensorDesc{DType::kF32, Shape{3}});
  in.as<float>()[0] = 1.0F + 0x1p-12F;  // not in fp16
  in.as<float>()[1] = 70000.0F;         // over fp16's range
  in.as<float>()[2] = -0.5F;
  Tensor out(TensorDesc{DType::kF32, Shape{3}});
  hold({DType::kF16, DType::kF32}, in.view(), out.mutable_view().data, pool);
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

TEST(Numerics, splits_long_conversions_without_changing_them) {
  constexpr std::int64_t kCount = (1 << 19) + 77;
  Tensor in(TensorDesc{DType::kF32, Shape{kCount}});
  for (std::size_t i = 0; i < in.desc().elements(); ++i)
    in.as<float>()[i] = 1.0F / static_cast<float>(i + 1);
  Tensor one(TensorDesc{DType::kBF16, Shape{kCount}});
  Tensor three(one.desc());
  ThreadPool alone(1);
  ThreadPool together(3);
  const Numerics numerics{DType::kBF16, DType::kBF16};
  hold(numerics, in.view(), one.mutable_view().data, alone);
  hold(numerics, in.view(), three.mutable_view().data, together);
  Tensor want(one.desc());
  convert(in.view(), want.mutable_view());
  EXPECT_TRUE(std::ranges::equal(one.as<std::uint16_t>(), want.as<std::uint16_t>()));
  EXPECT_TRUE(std::ranges::equal(three.as<std::uint16_t>(), want.as<std::uint16_t>()));
  Tensor back(one.desc());
  round_result(in.as<float>().data(), back.mutable_view(), together);
  EXPECT_TRUE(std::ranges::equal(back.as<std::uint16_t>(), want.as<std::uint16_t>()));
}

TEST(Numerics, gathers_many_rows_on_several_threads) {
  ThreadPool pool(3);
  Tensor table(TensorDesc{DType::kF32, Shape{10, 512}});
  for (std::size_t i = 0; i < table.desc().elements(); ++i)
    table.as<float>()[i] = static_cast<float>(i / 512);
  std::vector<std::int32_t> ids(1000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 7 % 10);
  Tensor out(TensorDesc{DType::kF32, Shape{1000, 512}});
  gather_rows(table.view(), ids, out.mutable_view(), pool);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ASSERT_EQ(out.as<float>()[i * 512], static_cast<float>(ids[i]));
    ASSERT_EQ(out.as<float>()[i * 512 + 511], static_cast<float>(ids[i]));
  }
}

}  // namespace
}  // namespace airlock
