#include "runtime/local_backend.h"
#include "tests/conformance/backend_conformance.h"
#include "tests/conformance/int8_conformance.h"
#include "tests/gpu_server/group/group_rig.h"

namespace airlock::testing {
namespace {

/// A model over three ranks, as rank 0's sessions have it.
class GroupUnderTest : public BackendUnderTest {
 public:
  GroupUnderTest(const MemoryModel& model, DType dtype, GroupCase wanted)
      : source_(model),
        rig_(model, dtype, std::move(wanted)),
        backend_(std::make_unique<LocalBackend>(rig_.model().make_compute({}).value())) {}
  // Before the group is over.
  ~GroupUnderTest() override { backend_.reset(); }
  Backend& backend() override { return *backend_; }
  Backend* integers(Privacy) override {
    EXPECT_TRUE(rig_.model().prepare_int8(source_, Int8Weights::kW16, {}).ok());
    return backend_.get();
  }

 private:
  const MemoryModel& source_;
  GroupRig rig_;
  std::unique_ptr<LocalBackend> backend_;
};

BackendCase of(const std::string& name, DType dtype, bool tied, PlacementKind kind,
               bool door_only) {
  return {name, dtype, tied,
          [=](const MemoryModel& model, DType held) -> std::unique_ptr<BackendUnderTest> {
            return std::make_unique<GroupUnderTest>(
                model, held, GroupCase{.kind = kind, .ranks = 3, .door_only = door_only});
          }};
}

INSTANTIATE_TEST_SUITE_P(
    Group, BackendConformance,
    ::testing::Values(of("layers", DType::kF32, false, PlacementKind::kLayers, false),
                      of("layers_door", DType::kBF16, true, PlacementKind::kLayers, true),
                      of("columns", DType::kF32, true, PlacementKind::kColumns, false),
                      of("columns_door", DType::kBF16, false, PlacementKind::kColumns, true)),
    backend_case_name);

}  // namespace
}  // namespace airlock::testing
