// The conformance suite with the module's own host sources on the fake device, in each order in
// which a GPU may run what is queued.
#include <tuple>

#include "tests/cuda/cuda_conformance.h"
#include "tests/cuda/device_group_rig.h"
#include "tests/cuda_fake/fake_device.h"
#include "tests/support/sanitizer.h"

namespace airlock::testing {
namespace {

using cuda_fake::Mode;

void report(const std::vector<std::string>& misuses) {
  for (const std::string& misuse : misuses) ADD_FAILURE() << misuse;
}

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

/// A model over several devices of the fake.
class FakeGroupUnderTest : public BackendUnderTest {
 public:
  FakeGroupUnderTest(Mode mode, const MemoryModel& model, DType dtype, int devices) {
    report(cuda_fake::reset({.mode = mode, .devices = devices}));
    const auto group = make_fake_group(model, dtype, static_cast<std::size_t>(devices));
    EXPECT_TRUE(group->prepare_int8(model, Int8Weights::kW16, {}).ok());
    backend_ = std::make_unique<LocalBackend>(group->make_compute({}).value());
  }
  ~FakeGroupUnderTest() override {
    backend_.reset();
    report(cuda_fake::reset());
  }
  Backend& backend() override { return *backend_; }
  Backend* integers(Privacy) override { return backend_.get(); }

 private:
  std::unique_ptr<LocalBackend> backend_;  // keeps the model alive
};

std::vector<BackendCase> group_cases() {
  std::vector<BackendCase> all;
  const auto add = [&](const char* name, Mode mode, DType dtype, bool tied, int devices) {
    all.push_back({name, dtype, tied, [=](const MemoryModel& model, DType type) {
                     return std::make_unique<FakeGroupUnderTest>(mode, model, type, devices);
                   }});
  };
  add("eager_3", Mode::kEager, DType::kBF16, true, 3);
  if (AIRLOCK_ASAN) return all;  // minutes of it
  add("lazy_2", Mode::kLazy, DType::kF32, false, 2);
  add("threads_3", Mode::kThreads, DType::kF16, false, 3);
  return all;
}

INSTANTIATE_TEST_SUITE_P(FakeGroup, BackendConformance, ::testing::ValuesIn(group_cases()),
                         backend_case_name);
INSTANTIATE_TEST_SUITE_P(Fake, BackendConformance, ::testing::ValuesIn(cases()), backend_case_name);

}  // namespace
}  // namespace airlock::testing
