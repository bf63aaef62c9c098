#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "bench/record.h"
#include "gpu_server/cuda_module_abi.h"
#include "runtime/model/forward_plan.h"

/// The parts of cuda_bench. Each gives JSON objects, one a figure; what cannot be measured (no room
/// on the device) is a record of kind "not_run". A CUDA failure ends the process.
namespace airlock::bench {

struct OpsOptions {
  const CudaModule* module = nullptr;
  int device = 0;
  std::vector<std::string> configs;
  std::vector<DType> dtypes;
  std::vector<std::int64_t> tokens;
  std::size_t threads = 1;
  int calls = 30;
};

struct PrefillOptions {
  const CudaModule* module = nullptr;
  int device = 0;
  std::string config;
  DType dtype = DType::kBF16;
  std::vector<std::int64_t> tokens;
  Attention attention = Attention::kOffload;
  std::size_t threads = 1;
  int repeat = 10;
};

/// Host to device and back, pinned and not, beside memcpy; from 64 KiB on.
std::vector<std::string> run_copies(std::size_t largest_bytes);
/// Each op of a model's shape through the module's Backend, beside one bare cuBLAS call.
std::vector<std::string> run_ops(const OpsOptions& options);
/// The whole prefill by the runner's driver and the module's Backend in this one process.
std::vector<std::string> run_prefills(const PrefillOptions& options);

}  // namespace airlock::bench
