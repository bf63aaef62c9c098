// Shares of a model on the fake device: what they compute together has every bit of what one does.
#include <gtest/gtest.h>

#include "tests/conformance/share_conformance.h"
#include "tests/cuda/fake_rig.h"

namespace airlock {
namespace {

using testing::float_ops;
using testing::int_ops;
using testing::MemoryModel;
using testing::panels_options;
using testing::SharesUnderTest;

constexpr std::int64_t kRows[] = {1, 5};

class CudaShare : public testing::FakeCudaTest {
 protected:
  static testing::MakeModel on_device(const ModelSource& source, DType dtype) {
    return [&source, dtype](const ModelShare* share) -> Result<std::shared_ptr<ComputeModel>> {
      CudaOptions options;
      options.dtype = dtype;
      options.share = share;
      ASSIGN_OR_RETURN(std::shared_ptr<CudaModel> model,
                       airlock_cuda_module()->create(&source, options));
      EXPECT_EQ(model->info().digest.empty(), share != nullptr);
      return std::shared_ptr<ComputeModel>(std::move(model));
    };
  }
};

TEST_F(CudaShare, computes_its_columns_of_what_the_whole_does) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool tied : {false, true}) {
      const MemoryModel source(panels_options(tied, 530));
      const testing::MakeModel make = on_device(source, dtype);
      const std::shared_ptr<ComputeModel> whole = make(nullptr).value();
      for (const Placement& placement : testing::some_placements(source.config())) {
        SharesUnderTest subject(whole, make, placement, source.config().dims);
        for (const std::int64_t rows : kRows) {
          for (const testing::PlacedOp& op :
               float_ops(source.config().dims, rows, dtype, DType::kF32)) {
            subject.expect_same_bits(op);
            subject.expect_refusals(op);
          }
        }
      }
    }
  }
}

TEST_F(CudaShare, computes_the_words_of_its_columns) {
  const MemoryModel source(panels_options(false, 530));
  const testing::MakeModel make = on_device(source, DType::kF32);
  const std::shared_ptr<ComputeModel> whole = make(nullptr).value();
  for (const Placement& placement : testing::some_placements(source.config())) {
    SharesUnderTest subject(whole, make, placement, source.config().dims);
    for (const auto& [choice, planes] : {std::pair(Int8Weights::kW8, std::uint8_t{1}),
                                         std::pair(Int8Weights::kW16, std::uint8_t{2})}) {
      ASSERT_NO_FATAL_FAILURE(subject.prepare_int8(source, choice));
      const auto planes_of = [count = planes](Linear, std::uint16_t) { return count; };
      for (const testing::PlacedOp& op : int_ops(source.config().dims, 5, planes_of)) {
        subject.expect_same_bits(op);
        subject.expect_refusals(op);
      }
    }
  }
}

TEST_F(CudaShare, takes_memory_for_what_it_holds_alone) {
  const MemoryModel source(panels_options(false, 530));
  const Placement placement =
      Placement::make(PlacementKind::kLayers, source.config(), 3, true).value();
  std::vector<std::size_t> loaded;
  for (std::size_t rank = 0; rank < placement.ranks(); ++rank) {
    CudaOptions options;
    options.share = &placement.share(rank);
    std::size_t total = 0;
    options.progress = [&](std::size_t, std::size_t all) { total = all; };
    const auto made = airlock_cuda_module()->create(&source, options);
    ASSERT_TRUE(made.ok()) << made.status().to_string();
    loaded.push_back(total);
  }
  EXPECT_EQ(loaded[0], 0U);
  for (std::size_t rank = 1; rank < loaded.size(); ++rank) {
    const std::size_t held = placement.elements(rank) * sizeof(float);
    EXPECT_GE(loaded[rank], held);
    EXPECT_LE(loaded[rank], held + 12 * 256);  // each group of weights begins aligned
  }
}

}  // namespace
}  // namespace airlock
