// A module for gpu_server --cuda-module that needs no GPU: it computes on the CPU, or fails as
// AIRLOCK_DOOR_MODULE says.

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/version.h"
#include "gpu_server/cuda_module_abi.h"
#include "runtime/cpu/cpu_model.h"

namespace airlock::testing {
namespace {

std::string_view mode() {
  const char* text = std::getenv("AIRLOCK_DOOR_MODULE");
  return text == nullptr ? "" : text;
}

const Status kLost(StatusCode::kDevice, "door: the device is lost");

struct Life {
  std::atomic<int> ops{0};
  std::atomic<bool> lost{false};
};

/// An op that never ends, as on a device that hangs.
class Stuck : public Computation {
 public:
  Status submit() override { return {}; }
  bool done() override { return true; }
  Status wait() override {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
  OpTimes times() const override { return {}; }
};

/// One bit of an op's first result is wrong.
class Lying : public Computation {
 public:
  Lying(std::unique_ptr<Computation> honest, std::byte* first)
      : honest_(std::move(honest)), first_(first) {}
  Status submit() override { return honest_->submit(); }
  bool done() override { return honest_->done(); }
  Status wait() override {
    Status status = honest_->wait();
    *first_ ^= std::byte{1};
    return status;
  }
  OpTimes times() const override { return honest_->times(); }

 private:
  std::unique_ptr<Computation> honest_;
  std::byte* const first_;
};

/// A CPU's results, dense, put at the end where the caller wants them.
class Placed : public Computation {
 public:
  Placed(std::unique_ptr<Computation> dense, std::vector<Tensor> results, OpMemory memory)
      : dense_(std::move(dense)), results_(std::move(results)), memory_(std::move(memory)) {}
  Status submit() override { return dense_->submit(); }
  bool done() override { return dense_->done(); }
  Status wait() override {
    RETURN_IF_ERROR(dense_->wait());
    for (std::size_t i = 0; i < results_.size(); ++i) {
      const std::span<const std::byte> bytes = results_[i].view().bytes();
      const auto rows = static_cast<std::size_t>(results_[i].desc().shape[0]);
      const std::size_t width = bytes.size() / rows;
      for (std::size_t row = 0; row < rows; ++row) {
        std::memcpy(memory_.results[i].data + row * memory_.result_pitch(i),
                    bytes.data() + row * width, width);
      }
    }
    return {};
  }
  OpTimes times() const override { return dense_->times(); }

 private:
  std::unique_ptr<Computation> dense_;
  std::vector<Tensor> results_;
  const OpMemory memory_;
};

class DoorCompute : public Compute {
 public:
  DoorCompute(std::shared_ptr<Life> life, std::unique_ptr<Compute> cpu)
      : life_(std::move(life)), cpu_(std::move(cpu)) {}
  const BackendInfo& info() const override { return cpu_->info(); }
  Result<std::unique_ptr<Computation>> prepare(const OpSpec& spec, OpMemory memory,
                                               const OpLife& life) override {
    constexpr int kLastGoodOp = 3;
    if ((mode() == "lost" || mode() == "stuck") && life_->ops.fetch_add(1) >= kLastGoodOp) {
      life_->lost.store(true);
      if (mode() == "stuck") return std::unique_ptr<Computation>(std::make_unique<Stuck>());
      return kLost;
    }
    const bool is_liar = mode() == "lies" || mode() == "lies at once";
    const int honest_ops = mode() == "lies" ? 40 : 0;
    const bool lies = is_liar && spec.op == Op::kIntLinear && life_->ops.fetch_add(1) >= honest_ops;
    std::byte* const first = lies ? memory.results[0].data : nullptr;
    if (!memory.pitches.empty()) return prepare_placed(spec, std::move(memory), life);
    ASSIGN_OR_RETURN(auto honest, cpu_->prepare(spec, std::move(memory), life));
    if (!lies) return honest;
    return std::unique_ptr<Computation>(std::make_unique<Lying>(std::move(honest), first));
  }

 private:
  Result<std::unique_ptr<Computation>> prepare_placed(const OpSpec& spec, OpMemory memory,
                                                      const OpLife& life) {
    std::vector<Tensor> results;
    OpMemory dense{memory.inputs, {}};
    for (const MutableTensorView& result : memory.results) results.emplace_back(result.desc);
    for (Tensor& result : results) dense.results.push_back(result.mutable_view());
    ASSIGN_OR_RETURN(auto op, cpu_->prepare(spec, std::move(dense), life));
    return std::unique_ptr<Computation>(
        std::make_unique<Placed>(std::move(op), std::move(results), std::move(memory)));
  }

  std::shared_ptr<Life> life_;  // the model's: whichever of the two goes last
  std::unique_ptr<Compute> cpu_;
};

class DoorModel : public CudaModel {
 public:
  DoorModel(std::shared_ptr<CpuModel> cpu, int ordinal)
      : cpu_(std::move(cpu)), info_(cpu_->info()) {
    info_.device = "cuda:" + std::to_string(ordinal) + " NVIDIA Door";
  }
  const BackendInfo& info() const override { return info_; }
  const CudaDeviceInfo& device() const override { return device_; }
  Result<std::unique_ptr<Compute>> make_compute(std::span<const std::span<std::byte>>) override {
    return std::unique_ptr<Compute>(std::make_unique<DoorCompute>(life_, cpu_->make_compute()));
  }
  Result<std::string> prepare_int8(const ModelSource& model, Int8Weights weights,
                                   const Int8Progress& progress) override {
    return cpu_->prepare_int8(model, weights, progress);
  }
  Result<std::vector<Int8Line>> prepare_int8_share(const ModelSource& model, Int8Weights weights,
                                                   const Int8Progress& progress) override {
    return cpu_->prepare_int8_share(model, weights, progress);
  }
  Status health() const override { return life_->lost.load() ? kLost : Status(); }

 private:
  std::shared_ptr<CpuModel> cpu_;
  BackendInfo info_;
  CudaDeviceInfo device_{"NVIDIA Door", "13.0", "13.1", "13.2", std::size_t{5} << 30};
  std::shared_ptr<Life> life_ = std::make_shared<Life>();
};

Result<std::shared_ptr<CudaModel>> create(const ModelSource* model, const CudaOptions& options) {
  if (mode() == "old_driver")
    return Status(StatusCode::kDevice, "door: the driver knows CUDA 11.0, 13.0 is needed");
  if (mode() == "no_memory")
    return Status(StatusCode::kResourceExhausted, "door: the weights need 9 GiB, 3 GiB are free");
  if (mode() == "bad_model") return Status(StatusCode::kInvalidInput, "door: a tensor is bad");
  if (mode() == "no_second" && options.device == 1)
    return Status(StatusCode::kDevice, "cuda:1 NVIDIA Door: it is busy");
  if (options.warn) options.warn(options.tf32 ? "door: tf32 is on" : "door: tf32 is off");
  LoadOptions cpu;
  cpu.dtype = options.dtype;
  cpu.threads = options.threads;
  cpu.progress = options.progress;
  cpu.share = options.share;
  ASSIGN_OR_RETURN(std::shared_ptr<CpuModel> made,
                   model == nullptr ? CpuModel::create_without_weights(options.threads)
                                    : CpuModel::create(*model, cpu));
  return std::shared_ptr<CudaModel>(std::make_shared<DoorModel>(std::move(made), options.device));
}

}  // namespace
}  // namespace airlock::testing

extern "C" const airlock::CudaModule* airlock_cuda_module() {
  using airlock::testing::mode;
  static airlock::CudaModule module;
  module = {{airlock::kModuleAbi, airlock::kVersion}, airlock::testing::create};
  if (mode() == "nothing") return nullptr;
  if (mode() == "other_abi") module.abi = 4711;
  if (mode() == "other_version") module.version = "0.0.99";
  if (mode() == "no_version") module.version = nullptr;
  if (mode() == "no_create") module.create = nullptr;
  return &module;
}
