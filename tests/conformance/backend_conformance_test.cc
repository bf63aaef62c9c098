#include "tests/conformance/backend_conformance.h"

#include "runtime/cpu/cpu_model.h"
#include "runtime/local_backend.h"

namespace airlock::testing {
namespace {

class CpuUnderTest : public BackendUnderTest {
 public:
  CpuUnderTest(const MemoryModel& model, DType dtype)
      : backend_(CpuModel::create(model, {.dtype = dtype, .threads = 1, .progress = {}})
                     .value()
                     ->make_compute()) {}
  Backend& backend() override { return backend_; }

 private:
  // Keeps the model alive.
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
