// What a CpuModel of a share reads, and what it says to shares and ops that are not its.
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "runtime/cpu/cpu_model.h"
#include "runtime/placement/placement.h"
#include "tests/exact/edited_model.h"
#include "tests/support/reference_ops.h"

namespace airlock {
namespace {

using testing::EditedModel;
using testing::MemoryModel;
using testing::random_tensor;

/// Two panels and a narrower one of vocab; k and v narrower than a panel.
MemoryModel::Options some_options(bool tied) {
  MemoryModel::Options options;
  options.dims.vocab = 600;
  options.tied = tied;
  return options;
}

/// Rows of each tensor that loading a share reads.
std::map<std::string, std::set<std::int64_t>> rows_read(const MemoryModel& model,
                                                        const ModelShare& share) {
  std::mutex mutex;
  std::map<std::string, std::set<std::int64_t>> read;
  const EditedModel source(
      model, [&](const std::string& name, std::int64_t row, std::int64_t column, float value) {
        const std::lock_guard lock(mutex);
        if (column == 0) read[name].insert(row);
        return value;
      });
  EXPECT_TRUE(CpuModel::create(source, {.threads = 2, .progress = {}, .share = &share}).ok());
  return read;
}

TEST(CpuShare, reads_the_rows_that_it_holds_and_no_others) {
  for (const PlacementKind kind : {PlacementKind::kLayers, PlacementKind::kColumns}) {
    for (const bool tied : {false, true}) {
      const MemoryModel model(some_options(tied));
      const Placement placement = Placement::make(kind, model.config(), 3, true).value();
      for (std::size_t rank = 0; rank < placement.ranks(); ++rank) {
        const ModelShare& share = placement.share(rank);
        std::map<std::string, std::set<std::int64_t>> held;
        const auto hold = [&](const std::string& name, const RowRange& rows) {
          for (std::int64_t row = rows.begin; row < rows.end; ++row) held[name].insert(row);
        };
        for (std::uint16_t layer = 0; layer < share.layers.size(); ++layer) {
          for (const WeightKind weight : kValuesOf<WeightKind>)
            hold(weight_name({weight, layer}), share.rows({weight, layer}));
        }
        hold(tied ? kEmbedName : kLmHeadName, share.lm_head);
        if (share.embedding) hold(kEmbedName, {0, model.config().dims.vocab});
        EXPECT_TRUE(rows_read(model, share) == held)
            << name_of(kind) << (tied ? ", tied, rank " : ", rank ") << rank;
      }
    }
  }
}

TEST(CpuShare, of_another_model_is_refused) {
  const MemoryModel model;
  ModelDims other = model.config().dims;
  other.vocab = 700;
  const ModelShare share = ModelShare::whole(other);
  EXPECT_EQ(
      CpuModel::create(model, {.threads = 1, .progress = {}, .share = &share}).status().code(),
      StatusCode::kInvalidInput);
}

TEST(CpuShare, of_nothing_still_multiplies_operands) {
  const MemoryModel model;
  ModelShare none;
  none.layers.resize(2);
  const auto made = CpuModel::create(model, {.threads = 1, .progress = {}, .share = &none});
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  EXPECT_EQ((*made)->info().dims, model.config().dims);
  const Tensor a = random_tensor({DType::kF32, Shape{1, 4, 4}}, 1);
  const OpSpec spec = matmul_spec(a.desc(), a.desc(), Transpose::kNone, DType::kF32);
  Tensor result(a.desc());
  const auto compute = (*made)->make_compute();
  auto op = compute->prepare(spec, {{a.view(), a.view()}, {result.mutable_view()}},
                             Deadline::after(std::chrono::seconds(60)));
  ASSERT_TRUE(op.ok());
  ASSERT_TRUE((*op)->submit().ok());
  double worst = 0;
  const std::vector<TensorView> inputs = {a.view(), a.view()};
  EXPECT_EQ(testing::count_outside_tolerance(
                result.view(), testing::reference_op(model, DType::kF32, spec, inputs)[0], worst),
            0U);
}

}  // namespace
}  // namespace airlock
