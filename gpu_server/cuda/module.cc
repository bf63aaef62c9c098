#include <algorithm>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "base/version.h"
#include "gpu_server/cuda/cuda_compute.h"
#include "runtime/local_backend.h"
#include "runtime/model/forward_plan.h"

namespace airlock::cuda {

namespace {

constexpr std::chrono::seconds kWarmUpTimeout{60};

class CudaModelImpl : public CudaModel {
 public:
  explicit CudaModelImpl(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  const BackendInfo& info() const override { return shared_->info; }
  const CudaDeviceInfo& device() const override { return shared_->device->info(); }
  Result<std::unique_ptr<Compute>> make_compute(
      std::span<const std::span<std::byte>> segments) override {
    return make_cuda_compute(shared_, segments);
  }
  Status health() const override { return shared_->device->health(); }

 private:
  std::shared_ptr<Shared> shared_;
};

Status run_once(Backend& backend, const OpSpec& spec) {
  ASSIGN_OR_RETURN(auto op, backend.prepare(spec, Deadline::after(kWarmUpTimeout)));
  for (std::size_t i = 0; i < spec.inputs.size(); ++i) {
    const auto bytes = op->input(i).bytes();
    std::fill(bytes.begin(), bytes.end(), std::byte{0});
  }
  RETURN_IF_ERROR(op->submit());
  return op->wait();
}

// cuBLAS and CUDA load their kernels with the first call that needs them: better now than within
// the first prompt. It also shows that the device computes at all.
Status warm_up(Backend& backend) {
  const BackendInfo& info = backend.info();
  ModelDims one_layer = info.dims;
  one_layer.layers = 1;
  for (const std::int64_t tokens : {1, 128}) {
    ASSIGN_OR_RETURN(const std::vector<PlannedOp> ops,
                     plan_forward(one_layer, {.tokens = tokens, .wire = info.stored_dtype}));
    for (const PlannedOp& op : ops) RETURN_IF_ERROR(run_once(backend, op.spec));
  }
  return {};
}

/// Loads, then runs each kind of op once.
Result<std::shared_ptr<CudaModel>> load(const ModelSource& model, const CudaOptions& options) {
  if (!is_float(options.dtype)) {
    return Status(StatusCode::kInvalidInput, "a model's dtype is fp32, fp16 or bf16");
  }
  RETURN_IF_ERROR(model.config().dims.check());
  auto shared = std::make_shared<Shared>();
  ASSIGN_OR_RETURN(shared->device, Device::open(options.device));
  RETURN_IF_ERROR(shared->device->health());
  shared->tf32 = options.tf32;
  shared->warn = options.warn;
  ASSIGN_OR_RETURN(std::string digest, model.digest());
  shared->info = {model.config().dims, options.dtype,           model.stored_dtype(),
                  options.threads,     shared->device->label(), std::move(digest)};
  ASSIGN_OR_RETURN(shared->weights, load_weights(*shared->device, model, options));
  {
    ASSIGN_OR_RETURN(auto compute, make_cuda_compute(shared, {}));
    LocalBackend backend(std::move(compute));
    RETURN_IF_ERROR(warm_up(backend));
  }
  return std::shared_ptr<CudaModel>(std::make_shared<CudaModelImpl>(std::move(shared)));
}

/// CudaModule::create. Exceptions do not cross the module's border.
Result<std::shared_ptr<CudaModel>> create(const ModelSource& model, const CudaOptions& options) {
  try {
    return load(model, options);
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return Status(StatusCode::kInternal, "the CUDA module: {}", error.what());
  }
}

}  // namespace
}  // namespace airlock::cuda

extern "C" __attribute__((visibility("default"))) const airlock::CudaModule* airlock_cuda_module() {
  static const airlock::CudaModule module{airlock::kCudaModuleAbi, airlock::kVersion,
                                          airlock::cuda::create};
  return &module;
}
