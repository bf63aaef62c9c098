#include "gpu_server/cuda/weights.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "base/thread_pool.h"
#include "gpu_server/cuda/wait.h"

namespace airlock::cuda {

namespace {

constexpr std::size_t kKinds = 7;
constexpr std::size_t kAlignment = 256;
constexpr std::size_t kStagingBytes = std::size_t{16} << 20;
constexpr std::chrono::seconds kCopyTimeout{60};  // for one block

double gib(std::size_t bytes) { return static_cast<double>(bytes) / 1073741824.0; }

std::size_t index_of(const WeightId& id) {
  return id.layer * kKinds + static_cast<std::size_t>(id.kind) - 1;
}

/// Two pinned buffers: one is filled from the model while the other one is copied.
class Uploader {
 public:
  static Result<Uploader> make(Device& device, const CudaOptions& options,
                               std::size_t staging_bytes) {
    Uploader made(device, options);
    ASSIGN_OR_RETURN(made.stream_, make_stream(device));
    for (Staging& staging : made.staging_) {
      ASSIGN_OR_RETURN(staging.memory, HostBuffer::allocate(device, staging_bytes));
      ASSIGN_OR_RETURN(staging.copied, make_event(device));
    }
    if (options.warn && !made.staging_[0].memory.pinned()) {
      options.warn("host memory could not be pinned: the weights are copied more slowly");
    }
    return made;
  }

  Status upload(const ModelSource& model, const std::string& name, const DeviceWeight& weight,
                DType dtype) {
    const std::size_t row_bytes = static_cast<std::size_t>(weight.k) * dtype_bytes(dtype);
    const auto step =
        static_cast<std::int64_t>(std::max<std::size_t>(1, kStagingBytes / row_bytes));
    auto* to = const_cast<std::byte*>(weight.data);
    for (std::int64_t row = 0; row < weight.n; row += step) {
      const std::int64_t rows = std::min(step, weight.n - row);
      const std::size_t bytes = static_cast<std::size_t>(rows) * row_bytes;
      Staging& staging = staging_[next_];
      next_ = 1 - next_;
      RETURN_IF_ERROR(wait_for(staging));
      RETURN_IF_ERROR(
          read(model, name, row, {staging.memory.data(), {dtype, Shape{rows, weight.k}}}));
      RETURN_IF_ERROR(device_.check(
          cudaMemcpyAsync(to + static_cast<std::size_t>(row) * row_bytes, staging.memory.data(),
                          bytes, cudaMemcpyHostToDevice, stream_.get()),
          "copy weights"));
      RETURN_IF_ERROR(
          device_.check(cudaEventRecord(staging.copied.get(), stream_.get()), "copy weights"));
      staging.busy = true;
    }
    model.release(name);
    return {};
  }

  Status finish() {
    return wait_for_streams(device_, {{stream_.get()}}, Deadline::after(kCopyTimeout));
  }

 private:
  struct Staging {
    HostBuffer memory;
    Event copied;
    bool busy = false;
  };

  Uploader(Device& device, const CudaOptions& options) : device_(device), pool_(nullptr) {
    pool_ = std::make_unique<ThreadPool>(std::max<std::size_t>(1, options.threads));
  }

  Status wait_for(Staging& staging) {
    if (!std::exchange(staging.busy, false)) return {};
    return wait_for_event(device_, staging.copied.get(), Deadline::after(kCopyTimeout));
  }

  /// All threads read, each some of the rows.
  Status read(const ModelSource& model, const std::string& name, std::int64_t first_row,
              MutableTensorView out) {
    const std::int64_t columns = out.desc.shape[1];
    const std::size_t row_bytes = static_cast<std::size_t>(columns) * dtype_bytes(out.desc.dtype);
    std::mutex mutex;
    Status first_error;
    pool_->parallel_for(
        static_cast<std::size_t>(out.desc.shape[0]), [&](std::size_t begin, std::size_t end) {
          if (begin == end) return;
          const auto rows = static_cast<std::int64_t>(end - begin);
          const Status status = model.read_rows(
              name, first_row + static_cast<std::int64_t>(begin),
              {out.data + begin * row_bytes, {out.desc.dtype, Shape{rows, columns}}});
          const std::lock_guard lock(mutex);
          if (first_error.ok()) first_error = status;
        });
    return first_error.ok() ? first_error : first_error.with_context(name);
  }

  Device& device_;
  std::unique_ptr<ThreadPool> pool_;
  std::array<Staging, 2> staging_;
  Stream stream_;
  std::size_t next_ = 0;
};

}  // namespace

const DeviceWeight& DeviceWeights::weight(const WeightId& id) const {
  return layers_[index_of(id)];
}

std::size_t DeviceWeights::plan(const ModelDims& dims, bool tied, std::vector<Target>& targets) {
  std::size_t offset = 0;
  const auto add = [&](std::string name, DeviceWeight& weight, const Shape& shape) {
    weight.n = shape[0];
    weight.k = shape[1];
    targets.push_back({std::move(name), &weight, offset});
    offset += static_cast<std::size_t>(weight.n * weight.k) * dtype_bytes(dtype_);
  };
  const auto align = [&] { offset = (offset + kAlignment - 1) / kAlignment * kAlignment; };
  layers_.resize(static_cast<std::size_t>(dims.layers) * kKinds);
  using enum WeightKind;
  for (std::int64_t layer = 0; layer < dims.layers; ++layer) {
    for (const WeightKind kind : {kQ, kK, kV, kO, kGate, kUp, kDown}) {
      if (kind == kQ || kind == kO || kind == kGate || kind == kDown) align();
      const WeightId id{kind, static_cast<std::uint16_t>(layer)};
      add(weight_name(id), layers_[index_of(id)], weight_shape(dims, kind));
    }
  }
  align();
  add(kEmbedName, table_, Shape{dims.vocab, dims.hidden});
  if (!tied) {
    align();
    add(kLmHeadName, lm_head_, Shape{dims.vocab, dims.hidden});
  }
  return offset;
}

Result<DeviceWeights> DeviceWeights::load(Device& device, const ModelSource& model,
                                          const CudaOptions& options) {
  DeviceWeights weights;
  weights.dtype_ = options.dtype;
  const bool tied = model.config().tie_word_embeddings;
  std::vector<Target> targets;
  const std::size_t need = weights.plan(model.config().dims, tied, targets);
  ASSIGN_OR_RETURN(const std::size_t have, device.free_bytes());
  if (need > have) {
    return Status(StatusCode::kResourceExhausted,
                  "{}: the weights need {:.2f} GiB of device memory, {:.2f} GiB are free: end what "
                  "else uses the GPU, give a smaller --dtype, or --device cpu",
                  device.label(), gib(need), gib(have));
  }
  ASSIGN_OR_RETURN(weights.memory_, DeviceMemory::allocate(device, need, "the weights"));
  std::size_t longest_row = 0;
  std::size_t largest = 0;
  for (const Target& target : targets) {
    target.weight->data = weights.memory_.data() + target.offset;
    const std::size_t row_bytes =
        static_cast<std::size_t>(target.weight->k) * dtype_bytes(options.dtype);
    longest_row = std::max(longest_row, row_bytes);
    largest = std::max(largest, static_cast<std::size_t>(target.weight->n) * row_bytes);
  }
  if (tied) weights.lm_head_ = weights.table_;
  ASSIGN_OR_RETURN(
      Uploader uploader,
      Uploader::make(device, options, std::max(longest_row, std::min(largest, kStagingBytes))));
  std::size_t done = 0;
  if (options.progress) options.progress(0, need);
  Status status;
  for (const Target& target : targets) {
    status = uploader.upload(model, target.name, *target.weight, options.dtype);
    if (!status.ok()) break;
    done +=
        static_cast<std::size_t>(target.weight->n * target.weight->k) * dtype_bytes(options.dtype);
    if (options.progress) options.progress(done, need);
  }
  // Also after a failure: what is still being copied lies in the uploader's memory.
  const Status finished = uploader.finish();
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(finished);
  if (options.progress) options.progress(need, need);
  return weights;
}

}  // namespace airlock::cuda
