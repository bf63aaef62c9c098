#include "tests/conformance/backend_conformance.h"
#include "tests/conformance/int8_conformance.h"

#include "runtime/cpu/cpu_model.h"
#include "runtime/local_backend.h"

namespace airlock::testing {
namespace {

class CpuUnderTest : public BackendUnderTest {
 public:
  CpuUnderTest(const MemoryModel& model, DType dtype)
      : source_(model),
        model_(CpuModel::create(model, {.dtype = dtype, .threads = 1, .progress = {}}).value()),
        backend_(model_->make_compute()) {}
  Backend& backend() override { return backend_; }
  Backend* integers(Privacy) override {
    EXPECT_TRUE(model_->prepare_int8(source_, Int8Weights::kW16, {}).ok());
    return &backend_;
  }

 private:
  const MemoryModel& source_;
  const std::shared_ptr<CpuModel> model_;
  LocalBackend backend_;
};

std::unique_ptr<BackendUnderTest> make_cpu(const MemoryModel& model, DType dtype) {
  return std::make_unique<CpuUnderTest>(model, dtype);
}

INSTANTIATE_TEST_SUITE_P(Cpu, BackendConformance,
                         ::testing::Values(BackendCase{"cpu", DType::kF32, false, make_cpu},
                                           BackendCase{"cpu", DType::kF16, false, make_cpu},
                                           BackendCase{"cpu", DType::kBF16, false, make_cpu},
                                           BackendCase{"cpu", DType::kF32, true, make_cpu},
                                           BackendCase{"cpu", DType::kF16, true, make_cpu},
                                           BackendCase{"cpu", DType::kBF16, true, make_cpu}),
                         backend_case_name);

}  // namespace
}  // namespace airlock::testing
