#include "tests/conformance/backend_conformance.h"

#include "runtime/cpu/cpu_backend.h"

namespace airlock::testing {
namespace {

class CpuUnderTest : public BackendUnderTest {
 public:
  CpuUnderTest(const MemoryModel& model, DType dtype) {
    auto made = CpuModel::create(model, {.dtype = dtype, .threads = 1, .progress = {}});
    CHECK(made.ok());
    backend_ = made.value()->make_backend();
  }
  Backend& backend() override { return *backend_; }

 private:
  std::unique_ptr<Backend> backend_;  // keeps the model alive
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
