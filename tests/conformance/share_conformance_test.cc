// Shares of a model on a CPU: what they compute together has every bit of what one process does.
#include "tests/conformance/share_conformance.h"

#include <gtest/gtest.h>

#include "runtime/cpu/cpu_model.h"
#include "tests/exact/edited_model.h"
#include "tests/support/memory_model.h"
#include "tests/support/sanitizer.h"

namespace airlock {
namespace {

using testing::EditedModel;
using testing::float_ops;
using testing::int_ops;
using testing::MemoryModel;
using testing::SharesUnderTest;

// The arithmetic is for the release build: a sanitizer sees the same code with less of it.
constexpr bool kIsSlow = AIRLOCK_ASAN || AIRLOCK_TSAN;
const std::vector<std::int64_t> kRows =
    kIsSlow ? std::vector<std::int64_t>{3} : std::vector<std::int64_t>{1, 3, 130};

testing::MakeModel on_cpu(const ModelSource& source, DType dtype) {
  return [&source, dtype](const ModelShare* share) -> Result<std::shared_ptr<ComputeModel>> {
    LoadOptions options{.dtype = dtype, .threads = 2, .progress = {}, .share = share};
    ASSIGN_OR_RETURN(std::shared_ptr<CpuModel> model, CpuModel::create(source, options));
    EXPECT_EQ(model->info().digest.empty(), share != nullptr);
    return std::shared_ptr<ComputeModel>(std::move(model));
  };
}

void expect_float_ops_agree(const ModelSource& source, DType dtype) {
  const LlamaConfig& config = source.config();
  const testing::MakeModel make = on_cpu(source, dtype);
  const std::shared_ptr<ComputeModel> whole = make(nullptr).value();
  for (const Placement& placement : testing::some_placements(config)) {
    SharesUnderTest subject(whole, make, placement, config.dims);
    for (const std::int64_t rows : kRows) {
      for (const DType wire : {DType::kF32, dtype}) {
        for (const testing::PlacedOp& op : float_ops(config.dims, rows, wire, wire)) {
          subject.expect_same_bits(op);
          subject.expect_refusals(op);
        }
        if (dtype == DType::kF32) break;
      }
    }
  }
}

/// Wide enough for several panels, and for a narrower one at the end of some weights; k and v are
/// narrower than a panel.
MemoryModel::Options wide_options(bool tied) {
  MemoryModel::Options options;
  options.dims = {.hidden = 768,
                  .intermediate = 2124,
                  .layers = 2,
                  .heads = 12,
                  .kv_heads = 3,
                  .head_dim = 64,
                  .vocab = 1100};
  options.tied = tied;
  options.stored_dtype = DType::kBF16;
  return options;
}

class WideShares : public ::testing::TestWithParam<DType> {};
class SmallShares : public ::testing::TestWithParam<DType> {};

TEST_P(WideShares, compute_the_bits_of_the_whole) {
  for (const bool tied : {false, true}) {
    if (kIsSlow && tied) break;
    expect_float_ops_agree(MemoryModel(wide_options(tied)), GetParam());
  }
}

TEST_P(SmallShares, compute_the_bits_of_the_whole) {
  for (const char* name : {"llama3-tied", "sharded-bf16", "mqa-head-dim"}) {
    SCOPED_TRACE(name);
    const auto source = open_model_directory(std::string(AIRLOCK_TEST_MODELS) + "/" + name);
    ASSERT_TRUE(source.ok()) << source.status().to_string();
    expect_float_ops_agree(**source, GetParam());
  }
}

std::string name_of_type(const ::testing::TestParamInfo<DType>& info) {
  return std::string(name_of(info.param));
}

INSTANTIATE_TEST_SUITE_P(EachType, WideShares, ::testing::Values(DType::kF32, DType::kBF16),
                         name_of_type);
INSTANTIATE_TEST_SUITE_P(EachType, SmallShares,
                         ::testing::Values(DType::kF32, DType::kBF16, DType::kF16), name_of_type);

/// A row of one linear has a value so much larger than the others that it gets two planes.
EditedModel with_outlier(const MemoryModel& model) {
  const std::string coarse = weight_name({WeightKind::kDown, 1});
  return EditedModel(
      model, [coarse](const std::string& name, std::int64_t row, std::int64_t column, float value) {
        return row == 5 && column == 7 && name == coarse ? 1e6F * value : value;
      });
}

constexpr Int8Weights kChoices[] = {Int8Weights::kW8, Int8Weights::kAuto, Int8Weights::kW16};

TEST(IntShares, compute_the_words_of_the_whole_with_every_choice_of_weights) {
  MemoryModel::Options options;
  options.dims = {.hidden = 300,
                  .intermediate = 810,
                  .layers = 2,
                  .heads = 6,
                  .kv_heads = 2,
                  .head_dim = 50,
                  .vocab = 530};
  const MemoryModel plain(options);
  const EditedModel source = with_outlier(plain);
  PerValue<Int8Weights, Int8Model> facts;
  PerValue<Int8Weights, std::ptrdiff_t> coarse;
  const auto pool = ThreadPool::create(2).value();
  for (const Int8Weights choice : kChoices) {
    facts[choice] = make_int8_weights(source, choice, *pool, {}).value();
    for (const auto& layer : facts[choice].layers)
      coarse[choice] += std::ranges::count(layer, 2, &Int8Linear::planes);
  }
  EXPECT_EQ(coarse[Int8Weights::kAuto], 1);
  EXPECT_EQ(coarse[Int8Weights::kW16], 8);
  const testing::MakeModel make = on_cpu(source, DType::kF32);
  const std::shared_ptr<ComputeModel> whole = make(nullptr).value();
  for (const Placement& placement : testing::some_placements(source.config())) {
    SharesUnderTest subject(whole, make, placement, options.dims);
    for (const Int8Weights choice : kChoices) {
      if (kIsSlow && choice != Int8Weights::kAuto) continue;
      ASSERT_NO_FATAL_FAILURE(subject.prepare_int8(source, choice));
      for (const std::int64_t rows : kRows) {
        const auto planes = [&](Linear linear, std::uint16_t layer) {
          return facts[choice].linear(linear, layer).planes;
        };
        for (const testing::PlacedOp& op : int_ops(options.dims, rows, planes)) {
          subject.expect_same_bits(op);
          subject.expect_refusals(op);
        }
      }
    }
  }
}

}  // namespace
}  // namespace airlock
