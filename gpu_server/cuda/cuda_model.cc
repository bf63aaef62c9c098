#include "gpu_server/cuda/cuda_model.h"

#include <algorithm>
#include <string>
#include <utility>

#include "gpu_server/cuda/cuda_compute.h"
#include "runtime/local_backend.h"

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
  using enum WeightKind;
  for (const std::int64_t rows : {1, 128}) {
    const auto run = [&](std::vector<WeightKind> kinds, std::int64_t columns) {
      std::vector<WeightId> weights;
      for (const WeightKind kind : kinds) weights.push_back({kind, 0});
      return run_once(backend,
                      linear_spec(std::move(weights), {info.stored_dtype, Shape{rows, columns}},
                                  info.stored_dtype));
    };
    RETURN_IF_ERROR(run_once(backend, embedding_spec(rows, info.stored_dtype)));
    RETURN_IF_ERROR(run({kQ, kK, kV}, info.dims.hidden));
    RETURN_IF_ERROR(run({kO}, info.dims.heads * info.dims.head_dim));
    RETURN_IF_ERROR(run({kGate, kUp}, info.dims.hidden));
    RETURN_IF_ERROR(run({kDown}, info.dims.intermediate));
    const auto heads = [&](std::int64_t count, std::int64_t columns) {
      return TensorDesc{info.stored_dtype, Shape{count, rows, columns}};
    };
    const TensorDesc keys = heads(info.dims.kv_heads, info.dims.head_dim);
    RETURN_IF_ERROR(run_once(backend, matmul_spec(heads(info.dims.heads, info.dims.head_dim), keys,
                                                  Transpose::kB, info.stored_dtype)));
    RETURN_IF_ERROR(run_once(backend, matmul_spec(heads(info.dims.heads, rows), keys,
                                                  Transpose::kNone, info.stored_dtype)));
  }
  return run_once(backend, lm_head_spec({info.stored_dtype, Shape{1, info.dims.hidden}}));
}

}  // namespace

Result<std::shared_ptr<CudaModel>> create_model(const ModelSource& model,
                                                const CudaOptions& options) {
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
  ASSIGN_OR_RETURN(shared->weights, DeviceWeights::load(*shared->device, model, options));
  {
    ASSIGN_OR_RETURN(auto compute, make_cuda_compute(shared, {}));
    LocalBackend backend(std::move(compute));
    RETURN_IF_ERROR(warm_up(backend));
  }
  return std::shared_ptr<CudaModel>(std::make_shared<CudaModelImpl>(std::move(shared)));
}

}  // namespace airlock::cuda
