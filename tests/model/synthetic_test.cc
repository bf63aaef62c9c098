#include <gmock/gmock.h>

#include <cmath>

#include "runtime/model/model_source.h"
#include "tests/model/temp_model.h"

namespace airlock {
namespace {

constexpr std::string_view kConfig =
    R"({"vocab_size": 1001, "hidden_size": 66, "intermediate_size": 97, "num_hidden_layers": 2,
        "num_attention_heads": 3, "dtype": "bfloat16"})";

class Synthetic : public testing::Test {
 protected:
  Synthetic() { test::write_file(config_path_, kConfig); }

  std::unique_ptr<ModelSource> make(std::uint64_t seed) {
    auto model = make_synthetic_model(config_path_, seed);
    CHECK(model.ok());
    return std::move(model).value();
  }
  static Tensor rows(const ModelSource& model, const std::string& name, std::int64_t first,
                     std::int64_t count, std::int64_t columns, DType dtype = DType::kF32) {
    Tensor tensor({.dtype = dtype, .shape = {count, columns}});
    const Status status = model.read_rows(name, first, tensor.mutable_view());
    EXPECT_TRUE(status.ok()) << status.message();
    return tensor;
  }
  static std::vector<float> values(const Tensor& tensor) {
    const auto span = tensor.as<float>();
    return {span.begin(), span.end()};
  }

  test::TempFolder folder_;
  std::string config_path_ = folder_.path("config.json");
};

TEST_F(Synthetic, any_range_of_rows_is_the_same_as_a_part_of_the_whole) {
  const auto model = make(1);
  const std::string name =
      weight_name({.kind = WeightKind::kDown, .layer = 1});  // 97 columns: rows are not aligned
  const std::vector<float> whole = values(rows(*model, name, 0, 66, 97));
  for (const std::int64_t first : {0, 1, 2, 3, 41, 65}) {
    const std::int64_t count = std::min<std::int64_t>(66 - first, 7);
    const std::vector<float> part = values(rows(*make(1), name, first, count, 97));
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + first * 97)) << first;
  }
}

TEST_F(Synthetic, is_a_function_of_name_and_seed) {
  const std::string q = weight_name({.kind = WeightKind::kQ, .layer = 0});
  const std::string k = weight_name({.kind = WeightKind::kK, .layer = 0});
  const std::vector<float> base = values(rows(*make(1), q, 0, 66, 66));
  EXPECT_EQ(base, values(rows(*make(1), q, 0, 66, 66)));
  EXPECT_NE(base, values(rows(*make(1), k, 0, 66, 66)));
  EXPECT_NE(base, values(rows(*make(2), q, 0, 66, 66)));
}

// Values from an implementation of their own, in Python, with statistics.NormalDist for the
// quantiles.
TEST_F(Synthetic, gives_the_values_of_generator_version_1) {
  const std::vector<float> row = values(rows(*make(0), kEmbedName, 0, 1, 66));
  EXPECT_THAT(
      std::vector<float>(row.begin(), row.begin() + 4),
      testing::ElementsAre(-0x1.29f556p-5F, -0x1.122bcp-3F, 0x1.6bf366p-5F, -0x1.f47398p-4F));
}

TEST_F(Synthetic, is_normal_with_the_standard_deviation_of_its_columns) {
  const std::vector<float> all = values(rows(*make(3), kEmbedName, 0, 1001, 66));
  const double scale = std::sqrt(66.0);
  double sum = 0;
  double squares = 0;
  double fourths = 0;
  std::size_t beyond_two = 0;
  for (const float value : all) {
    const double x = value * scale;
    sum += x;
    squares += x * x;
    fourths += x * x * x * x;
    beyond_two += std::abs(x) > 2 ? 1 : 0;
    EXPECT_LT(std::abs(x), 5.0);
  }
  const auto count = static_cast<double>(all.size());
  EXPECT_NEAR(sum / count, 0.0, 0.02);
  EXPECT_NEAR(squares / count, 1.0, 0.03);
  EXPECT_NEAR(fourths / count, 3.0, 0.2);
  EXPECT_NEAR(static_cast<double>(beyond_two) / count, 0.0455, 0.004);
}

TEST_F(Synthetic, neighbours_are_not_correlated) {
  const std::vector<float> all = values(rows(*make(3), kLmHeadName, 0, 1001, 66));
  for (const std::size_t lag : {1, 2, 3, 4, 8, 66}) {
    double sum = 0;
    for (std::size_t i = lag; i < all.size(); ++i) sum += 66.0 * all[i] * all[i - lag];
    EXPECT_NEAR(sum / static_cast<double>(all.size() - lag), 0.0, 0.02) << lag;
  }
}

TEST_F(Synthetic, rounds_to_the_type_that_is_asked_for) {
  const auto model = make(1);
  EXPECT_EQ(model->stored_dtype(), DType::kBF16);
  const std::vector<float> wide = values(rows(*model, kEmbedName, 5, 3, 66));
  const Tensor bf16 = rows(*model, kEmbedName, 5, 3, 66, DType::kBF16);
  const Tensor f16 = rows(*model, kEmbedName, 5, 3, 66, DType::kF16);
  for (std::size_t i = 0; i < wide.size(); ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(wide[i]);
    EXPECT_NEAR(static_cast<double>(bf16.as<std::uint16_t>()[i]), bits / 65536.0, 0.5001);
    EXPECT_LT(f16.as<std::uint16_t>()[i] & 0x7fff, 0x7c00);
  }
}

TEST_F(Synthetic, norms_are_near_one) {
  const auto model = make(1);
  const auto norms = read_norms(*model);
  ASSERT_TRUE(norms.ok());
  EXPECT_EQ(norms->desc().shape, (Shape{5, 66}));
  double sum = 0;
  for (const float value : norms->as<float>()) {
    EXPECT_NEAR(value, 1.0, 0.5);
    sum += value;
  }
  EXPECT_NEAR(sum / (5 * 66), 1.0, 0.03);
  EXPECT_NE(norms->as<float>()[0], norms->as<float>()[66]);
}

TEST_F(Synthetic, refuses_rows_and_names_that_are_not_there) {
  const auto model = make(1);
  Tensor two({.dtype = DType::kF32, .shape = {2, 66}});
  EXPECT_TRUE(model->read_rows(kEmbedName, 999, two.mutable_view()).ok());
  for (const std::int64_t first : {std::int64_t{1000}, std::int64_t{-1}, INT64_MAX, INT64_MIN}) {
    EXPECT_EQ(model->read_rows(kEmbedName, first, two.mutable_view()).code(),
              StatusCode::kInvalidInput);
  }
  EXPECT_FALSE(model->read_rows("model.embed", 0, two.mutable_view()).ok());
  EXPECT_FALSE(
      model->read_rows(weight_name({.kind = WeightKind::kQ, .layer = 2}), 0, two.mutable_view())
          .ok());
  Tensor narrow({.dtype = DType::kF32, .shape = {2, 65}});
  EXPECT_FALSE(model->read_rows(kEmbedName, 0, narrow.mutable_view()).ok());
  Tensor integers({.dtype = DType::kI32, .shape = {2, 66}});
  EXPECT_FALSE(model->read_rows(kEmbedName, 0, integers.mutable_view()).ok());
}

TEST_F(Synthetic, digest_covers_config_and_seed) {
  const std::string one = *make(1)->digest();
  EXPECT_EQ(one.size(), 64U);
  EXPECT_EQ(one, *make(1)->digest());
  EXPECT_NE(one, *make(2)->digest());
  test::write_file(config_path_, test::replaced(std::string(kConfig), "1001", "1002"));
  EXPECT_NE(one, *make(1)->digest());
}

TEST_F(Synthetic, refuses_a_bad_config) {
  EXPECT_FALSE(make_synthetic_model(folder_.path("none.json"), 1).ok());
  test::write_file(config_path_, R"({"hidden_size": 0})");
  EXPECT_EQ(make_synthetic_model(config_path_, 1).status().code(), StatusCode::kInvalidInput);
}

}  // namespace
}  // namespace airlock
