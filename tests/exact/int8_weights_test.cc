// The int8 weights of small models against a second implementation, bit for bit.
#include "runtime/exact/int8_weights.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "tests/exact/edited_model.h"
#include "tests/exact/naive_int8.h"

namespace airlock {
namespace {

using testing::as_it_is;
using testing::EditedModel;
using testing::MemoryModel;
using testing::naive_model;
using testing::NaiveLinear;

/// What a sink got: all rows of a linear's planes, by layer (lm_head's is 0), and where they began.
struct Collected {
  using Place = std::tuple<std::int64_t, Linear, std::size_t, std::uint8_t>;  // weight, plane
  std::map<Place, std::map<std::int64_t, std::vector<std::int8_t>>> blocks;
  std::map<Place, std::uint8_t> planes;

  std::vector<std::int8_t> rows(std::int64_t layer, Linear linear, std::size_t weights,
                                std::uint8_t plane) const {
    std::vector<std::int8_t> all;
    for (std::size_t weight = 0; weight < weights; ++weight) {
      for (const auto& [first, values] : blocks.at({layer, linear, weight, plane}))
        all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }
};

struct Made {
  Int8Model model;
  Collected collected;
};

Made make(const ModelSource& model, Int8Weights choice, std::size_t threads = 2) {
  Made made;
  std::mutex mutex;
  const auto pool = ThreadPool::create(threads).value();
  auto result = make_int8_weights(model, choice, *pool, [&](const Int8Rows& rows) -> Status {
    const std::lock_guard lock(mutex);
    EXPECT_EQ(rows.first_row % kInt8BlockRows, 0);
    EXPECT_EQ(rows.values.size(), static_cast<std::size_t>(rows.row_count * rows.columns));
    const Collected::Place place{rows.layer, rows.linear, rows.weight, rows.plane};
    const bool is_new =
        made.collected.blocks[place]
            .emplace(rows.first_row, std::vector(rows.values.begin(), rows.values.end()))
            .second;
    EXPECT_TRUE(is_new) << "rows came twice";
    made.collected.planes[place] = rows.planes;
    return {};
  });
  CHECK(result.ok());
  made.model = std::move(result).value();
  return made;
}

/// Every bit, of what is returned and of what the sink got.
void expect_naive(const ModelSource& model, Int8Weights choice) {
  const Made made = make(model, choice);
  const std::int64_t layers = model.config().dims.layers;
  ASSERT_EQ(made.model.layers.size(), static_cast<std::size_t>(layers));
  std::size_t places = 0;
  for (const auto& [place, naive] : naive_model(model, choice)) {
    const auto [layer, name] = place;
    const auto at = static_cast<std::uint16_t>(name == Linear::kLmHead ? 0 : layer);
    SCOPED_TRACE(fmt::format("{} of layer {}", name_of(name), layer));
    const Int8Linear& linear = made.model.linear(name, at);
    EXPECT_EQ(linear.column_exponents, naive.exponents);
    EXPECT_EQ(linear.scales, naive.scales);
    ASSERT_EQ(linear.planes, naive.planes.size());
    EXPECT_EQ(linear.most_l1, naive.most_l1);
    EXPECT_EQ(linear.most_l2_squared, naive.most_l2_squared);
    EXPECT_EQ(linear.most_abs, naive.most_abs);
    for (std::uint8_t plane = 0; plane < linear.planes; ++plane) {
      EXPECT_EQ(made.collected.rows(at, name, linear.weight_rows.size(), plane),
                naive.planes[plane]);
      EXPECT_EQ(made.collected.planes.at({at, name, 0, plane}), linear.planes);
      places += linear.weight_rows.size();
    }
  }
  EXPECT_EQ(made.collected.blocks.size(), places) << "there is more than that";
}

TEST(Int8Weights, AreThoseOfTheSecondImplementation) {
  for (const Int8Weights choice : {Int8Weights::kW8, Int8Weights::kW16, Int8Weights::kAuto}) {
    SCOPED_TRACE(name_of(choice));
    expect_naive(MemoryModel(), choice);
  }
}

TEST(Int8Weights, OfATiedModelAreTheEmbeddings) {
  for (const DType stored : {DType::kBF16, DType::kF16}) {
    MemoryModel::Options options;
    options.tied = true;
    options.stored_dtype = stored;
    options.dims.kv_heads = 6;
    options.dims.vocab = 513;
    expect_naive(MemoryModel(options), Int8Weights::kW16);
  }
}

// Rows beyond one batch of what is read at a time, and columns beyond one strip.
TEST(Int8Weights, OfALargerModelAreTheSameRule) {
  MemoryModel::Options options;
  options.dims = {.hidden = 520,
                  .intermediate = 777,
                  .layers = 1,
                  .heads = 4,
                  .kv_heads = 2,
                  .head_dim = 130,
                  .vocab = 8200};
  expect_naive(MemoryModel(options), Int8Weights::kW8);
}

float outliers(const std::string& name, std::int64_t row, std::int64_t column, float value) {
  if (name.find("norm.weight") != std::string::npos && column == 3) return value * 1024.0F;
  if (name.find("norm.weight") != std::string::npos && column == 4) return 0.0F;
  if (name.find("norm.weight") != std::string::npos && column == 5) return -value / 128.0F;
  if (name.find("up_proj") != std::string::npos && row == 7) return value * 128.0F;
  if (name.find("v_proj") != std::string::npos && row == 9) return value * 1024.0F;
  if (name.find("v_proj") != std::string::npos && row == 10) return 0.0F;
  if (name.find("o_proj") != std::string::npos && column == 11) return 0.0F;
  if (name.find("down_proj") != std::string::npos && row == 12) return 0.0F;
  if (name.find("down_proj") != std::string::npos && column == 13) return value * 0x1p-100F;
  return value;
}

TEST(Int8Weights, OfAModelWithOutliersAndZerosAreTheSameRule) {
  const MemoryModel model;
  const EditedModel edited(model, outliers);
  for (const Int8Weights choice : {Int8Weights::kW8, Int8Weights::kW16, Int8Weights::kAuto}) {
    SCOPED_TRACE(name_of(choice));
    expect_naive(edited, choice);
  }
}

TEST(Int8Weights, ARowOfZerosHasNoScale) {
  const MemoryModel model;
  const EditedModel edited(model, outliers);
  const Made made = make(edited, Int8Weights::kW16);
  EXPECT_EQ(made.model.linear(Linear::kDown, 1).scales[12], 0.0F);
  const auto columns = static_cast<std::ptrdiff_t>(model.config().dims.intermediate);
  for (const std::uint8_t plane : {std::uint8_t{0}, std::uint8_t{1}}) {
    const auto rows = made.collected.rows(1, Linear::kDown, 1, plane);
    EXPECT_TRUE(std::all_of(rows.begin() + 12 * columns, rows.begin() + 13 * columns,
                            [](std::int8_t value) { return value == 0; }));
  }
}

// So small that the scale is 0 in fp32, and so small that it is not a normal number.
TEST(Int8Weights, TheSmallestWeightsAreTheSameRule) {
  const MemoryModel model;
  for (const float factor : {0x1p-148F, 0x1p-138F, 0x1p-120F}) {
    expect_naive(
        EditedModel(model,
                    [factor](const std::string& name, std::int64_t row, std::int64_t, float value) {
                      const bool small = row % 3 == 0 && name.find("norm") == std::string::npos;
                      return small ? value * factor : value;
                    }),
        Int8Weights::kW16);
  }
}

TEST(Int8Weights, TwoPlanesLeaveHalfAUnitOfTheSecond) {
  const MemoryModel model;
  const Made made = make(model, Int8Weights::kW16);
  const Int8Linear& linear = made.model.lm_head;
  const auto first = made.collected.rows(0, Linear::kLmHead, 1, 0);
  const auto second = made.collected.rows(0, Linear::kLmHead, 1, 1);
  const auto weights = model.values(kLmHeadName, DType::kF32);
  const auto columns = static_cast<std::size_t>(linear.columns);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double folded =
        std::ldexp(static_cast<double>(weights[i]), linear.column_exponents[i % columns]);
    const auto scale = static_cast<double>(linear.scales[i / columns]);
    const double made_of = scale * (first[i] + second[i] / kPlaneRatio);
    ASSERT_LE(std::fabs(folded - made_of), 0.50001 * scale / kPlaneRatio) << i;
  }
}

TEST(Int8Weights, AnyNumberOfThreadsMakesTheSame) {
  const MemoryModel model;
  const EditedModel edited(model, outliers);
  const Made one = make(edited, Int8Weights::kAuto, 1);
  for (const std::size_t threads : {std::size_t{2}, std::size_t{3}, std::size_t{7}}) {
    const Made other = make(edited, Int8Weights::kAuto, threads);
    EXPECT_EQ(one.model.digest, other.model.digest);
    EXPECT_EQ(one.collected.blocks, other.collected.blocks);
  }
}

/// One weight that is far above the others of its row: in layer 1's o_proj.
float one_coarse_row(const std::string& name, std::int64_t row, std::int64_t column, float value) {
  if (name != "model.layers.1.self_attn.o_proj.weight" || row != 5) return value;
  return column == 17 ? 4.0F : value / 1000.0F;
}

TEST(Int8Weights, AutoGivesTwoPlanesWhereOneIsTooCoarse) {
  MemoryModel::Options options;
  options.dims = {.hidden = 64,
                  .intermediate = 128,
                  .layers = 2,
                  .heads = 16,
                  .kv_heads = 4,
                  .head_dim = 64,
                  .vocab = 100};
  const MemoryModel model(options);
  const Made made = make(EditedModel(model, one_coarse_row), Int8Weights::kAuto);
  for (std::uint16_t layer = 0; layer < 2; ++layer) {
    for (const Linear linear : {Linear::kQkv, Linear::kO, Linear::kGateUp, Linear::kDown}) {
      const bool coarse = layer == 1 && linear == Linear::kO;
      EXPECT_EQ(made.model.linear(linear, layer).planes, coarse ? 2 : 1) << name_of(linear);
    }
  }
  EXPECT_EQ(made.model.lm_head.planes, 1);
}

/// The digest as int8_weights.cc says that it is made.
std::string digest_of(const Made& made, Int8Weights choice) {
  std::string lines = fmt::format("airlock int8 weights 1 {}\n", name_of(choice));
  const auto add = [&](Linear name, std::uint16_t layer) {
    const Int8Linear& linear = made.model.linear(name, layer);
    std::string text = fmt::format("linear {} layer {} columns {} planes {} rows", name_of(name),
                                   layer, linear.columns, static_cast<int>(linear.planes));
    for (const auto rows : linear.weight_rows) text += fmt::format(" {}", rows);
    text += "\n";
    text.append(reinterpret_cast<const char*>(linear.column_exponents.data()),
                linear.column_exponents.size());
    text.append(reinterpret_cast<const char*>(linear.scales.data()), 4 * linear.scales.size());
    for (std::size_t weight = 0; weight < linear.weight_rows.size(); ++weight) {
      for (const auto& [first, values] : made.collected.blocks.at({layer, name, weight, 0})) {
        for (std::uint8_t plane = 0; plane < linear.planes; ++plane) {
          const auto& block = made.collected.blocks.at({layer, name, weight, plane}).at(first);
          text += sha256_of(std::as_bytes(std::span(block)));
        }
      }
    }
    lines += sha256_of(std::as_bytes(std::span(text))) + "\n";
  };
  for (std::uint16_t layer = 0; layer < made.model.layers.size(); ++layer) {
    for (const Linear linear : {Linear::kQkv, Linear::kO, Linear::kGateUp, Linear::kDown})
      add(linear, layer);
  }
  add(Linear::kLmHead, 0);
  return sha256_of(std::as_bytes(std::span(lines)));
}

// The digests of one model stand here for ever: who changes the rule makes another version of it.
TEST(Int8Weights, DigestsAreThoseOfTheRule) {
  const MemoryModel model;
  const std::map<Int8Weights, std::string> golden = {
      {Int8Weights::kW8, "d5e22f0acec077e779233750f49c651d34c1651f2751fcbf09221fe20b4107ba"},
      {Int8Weights::kW16, "284d4ef9bc12a103980bd250ad19a6efddaa357848686b80eb4ee9dbdadf38a3"},
      {Int8Weights::kAuto, "3c6650db3522425016f7c5ca20dcf79198fda47831b8adfb1006989f1446d889"},
  };
  for (const auto& [choice, digest] : golden) {
    const Made made = make(model, choice);
    EXPECT_EQ(made.model.digest, digest_of(made, choice)) << name_of(choice);
    EXPECT_EQ(made.model.digest, digest) << name_of(choice);
  }
}

TEST(Int8Weights, ADigestTellsOneChangedWeight) {
  const MemoryModel model;
  std::set<std::string> digests;
  digests.insert(make(model, Int8Weights::kW8).model.digest);
  for (const std::string changed :
       {"model.layers.1.self_attn.k_proj.weight", "model.layers.0.mlp.down_proj.weight",
        "lm_head.weight", "model.layers.1.post_attention_layernorm.weight"}) {
    const EditedModel edited(
        model, [&](const std::string& name, std::int64_t row, std::int64_t column, float value) {
          return name == changed && row == 0 && column == 1 ? value + 5.0F : value;
        });
    digests.insert(make(edited, Int8Weights::kW8).model.digest);
  }
  EXPECT_EQ(digests.size(), 5U);
}

TEST(Int8Weights, MostBytesAreThoseOfEveryPlane) {
  const ModelDims dims = MemoryModel().config().dims;
  for (const Int8Weights choice : {Int8Weights::kW8, Int8Weights::kW16}) {
    const Made made = make(MemoryModel(), choice);
    std::size_t bytes = 0;
    for (const auto& [place, blocks] : made.collected.blocks) {
      for (const auto& [first, values] : blocks) bytes += values.size();
    }
    EXPECT_EQ(most_int8_bytes(dims, choice), bytes);
  }
  EXPECT_EQ(most_int8_bytes(dims, Int8Weights::kAuto), most_int8_bytes(dims, Int8Weights::kW16));
  EXPECT_EQ(most_int8_bytes(dims, Int8Weights::kNone), 0U);
}

}  // namespace
}  // namespace airlock
