#pragma once

#include <optional>

#include "gpu_server/cuda_module_abi.h"
#include "runtime/local_backend.h"
#include "tests/conformance/backend_conformance.h"
#include "tests/conformance/int8_conformance.h"

namespace airlock::testing {

/// A backend of a CUDA module on device 0, and its model with both planes of int8 weights.
class CudaUnderTest : public BackendUnderTest {
 public:
  CudaUnderTest(const CudaModule& module, const MemoryModel& model, DType dtype) {
    CudaOptions options;
    options.dtype = dtype;
    auto made = module.create(&model, options);
    if (!made.ok()) ADD_FAILURE() << made.status().to_string();
    CHECK(made.ok());
    const auto digest = made.value()->prepare_int8(model, Int8Weights::kW16, {});
    if (!digest.ok()) ADD_FAILURE() << digest.status().to_string();
    auto compute = made.value()->make_compute({});
    if (!compute.ok()) ADD_FAILURE() << compute.status().to_string();
    CHECK(compute.ok());
    backend_.emplace(std::move(compute).value());
  }
  Backend& backend() override { return *backend_; }
  Backend* integers(Privacy) override { return &*backend_; }

 private:
  // Keeps the model alive.
  std::optional<LocalBackend> backend_;
};

}  // namespace airlock::testing
