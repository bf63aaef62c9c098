// The conformance suite with the module's own host sources on the fake device, in each order in
// which a GPU may run what is queued.
#include <tuple>

#include "tests/cuda/cuda_conformance.h"
#include "tests/cuda_fake/fake_device.h"

extern "C" const airlock::CudaModule* airlock_cuda_module();

namespace airlock::testing {
namespace {

using cuda_fake::Mode;

/// The fake is fresh at the start and says nothing at the end.
class FakeUnderTest : public BackendUnderTest {
 public:
  FakeUnderTest(Mode mode, const MemoryModel& model, DType dtype) {
    report(cuda_fake::reset({.mode = mode}));
    inner_ = std::make_unique<CudaUnderTest>(*airlock_cuda_module(), model, dtype);
  }
  ~FakeUnderTest() override {
    inner_.reset();
    report(cuda_fake::reset());
  }
  Backend& backend() override { return inner_->backend(); }
  Backend* integers(Privacy mode) override { return inner_->integers(mode); }

 private:
  static void report(const std::vector<std::string>& misuses) {
    for (const std::string& misuse : misuses) ADD_FAILURE() << misuse;
  }
  std::unique_ptr<CudaUnderTest> inner_;
};

std::vector<BackendCase> cases() {
  std::vector<BackendCase> all;
  for (const auto& [mode, name] : {std::pair{Mode::kLazy, "lazy"}, std::pair{Mode::kEager, "eager"},
                                   std::pair{Mode::kThreads, "threads"}}) {
    for (const DType dtype : kFloatTypes) {
      for (const bool tied : {false, true}) {
        all.push_back({name, dtype, tied, [mode = mode](const MemoryModel& model, DType type) {
                         return std::make_unique<FakeUnderTest>(mode, model, type);
                       }});
      }
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Fake, BackendConformance, ::testing::ValuesIn(cases()), backend_case_name);

}  // namespace
}  // namespace airlock::testing
