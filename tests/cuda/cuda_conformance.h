#pragma once

#include "gpu_server/cuda_module_abi.h"
#include "tests/conformance/backend_conformance.h"

namespace airlock::testing {

/// A backend of a CUDA module on device 0, and its model.
class CudaUnderTest : public BackendUnderTest {
 public:
  CudaUnderTest(const CudaModule& module, const MemoryModel& model, DType dtype) {
    CudaOptions options;
    options.dtype = dtype;
    auto made = module.create(model, options);
    if (!made.ok()) ADD_FAILURE() << made.status().to_string();
    CHECK(made.ok());
    auto backend = made.value()->make_backend({});
    if (!backend.ok()) ADD_FAILURE() << backend.status().to_string();
    CHECK(backend.ok());
    backend_ = std::move(backend).value();
  }
  Backend& backend() override { return *backend_; }

 private:
  std::unique_ptr<Backend> backend_;  // keeps the model alive
};

}  // namespace airlock::testing
