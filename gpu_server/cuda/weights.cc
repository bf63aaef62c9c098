#include "gpu_server/cuda/weights.h"

#include <algorithm>
#include <memory>
#include <string>

#include "base/thread_pool.h"
#include "runtime/placement/placement.h"

namespace airlock::cuda {

namespace {

constexpr std::size_t kPieceBytes = std::size_t{16} << 20;
constexpr std::chrono::seconds kCopyTimeout{60};  // for what is queued at the end

double gib(std::size_t bytes) { return static_cast<double>(bytes) / 1073741824.0; }

/// Where rows of one tensor of the model go.
struct Target {
  std::string name;
  std::int64_t first_row;
  DeviceWeight* weight;
  std::size_t offset;
};

/// Lays all that is held out from offset 0 and gives the weights their shapes.
std::vector<Target> plan(const LlamaConfig& config, const ModelShare& share,
                         DeviceWeights& weights) {
  const ModelDims& dims = config.dims;
  std::vector<Target> targets;
  std::size_t end = 0;
  const auto add = [&](std::string name, DeviceWeight& weight, std::int64_t columns,
                       const RowRange& rows) {
    weight.n = rows.count();
    weight.k = columns;
    if (rows.empty()) return;
    targets.push_back({std::move(name), rows.begin, &weight, end});
    end += weight.bytes(weights.dtype);
  };
  weights.layers.resize(static_cast<std::size_t>(dims.layers));
  using enum WeightKind;
  for (std::size_t layer = 0; layer < weights.layers.size(); ++layer) {
    for (const WeightKind kind : kValuesOf<WeightKind>) {
      if (kind == kQ || kind == kO || kind == kGate || kind == kDown) end = aligned(end);
      const WeightId id{kind, static_cast<std::uint16_t>(layer)};
      add(weight_name(id), weights.layers[layer][kind], weight_shape(dims, kind)[1],
          share.rows(id));
    }
  }
  end = aligned(end);
  const bool tied = config.tie_word_embeddings;
  if (share.embedding) add(kEmbedName, weights.table, dims.hidden, {0, dims.vocab});
  end = aligned(end);
  if (!tied || !share.embedding)
    add(tied ? kEmbedName : kLmHeadName, weights.lm_head, dims.hidden, share.lm_head);
  return targets;
}

/// Two pieces: one is filled from the model while the other one is copied.
class Uploader {
 public:
  Uploader(Device& device, const ModelSource& model, const CudaOptions& options,
           std::size_t piece_bytes)
      : device_(device), model_(model), options_(options), staging_(device, 2, piece_bytes) {}

  Status open() {
    ASSIGN_OR_RETURN(pool_, ThreadPool::create(std::max<std::size_t>(1, options_.threads)));
    ASSIGN_OR_RETURN(stream_, make_stream(device_));
    RETURN_IF_ERROR(staging_.prepare());
    if (options_.warn && !staging_.pinned())
      options_.warn("host memory could not be pinned: the weights are copied more slowly");
    return {};
  }

  Status upload(const Target& target) {
    const DeviceWeight& weight = *target.weight;
    const std::size_t row_bytes = static_cast<std::size_t>(weight.k) * dtype_bytes(options_.dtype);
    const auto step = static_cast<std::int64_t>(std::max<std::size_t>(1, kPieceBytes / row_bytes));
    for (std::int64_t row = 0; row < weight.n; row += step) {
      const std::int64_t rows = std::min(step, weight.n - row);
      ASSIGN_OR_RETURN(Staging::Piece * piece, staging_.next_free());
      RETURN_IF_ERROR(read(target.name, target.first_row + row,
                           {piece->memory.data(), {options_.dtype, Shape{rows, weight.k}}}));
      RETURN_IF_ERROR(staging_.send(*piece, weight.data + static_cast<std::size_t>(row) * row_bytes,
                                    static_cast<std::size_t>(rows) * row_bytes, stream_.get(),
                                    "copy weights"));
    }
    model_.release(target.name);
    return {};
  }

  Status finish() {
    return device_.wait_until_over(cudaStreamQuery, stream_.get(), "what is queued",
                                   Deadline::after(kCopyTimeout));
  }

 private:
  /// All threads read, each some of the rows.
  Status read(const std::string& name, std::int64_t first_row, MutableTensorView out) {
    const std::int64_t columns = out.desc.shape[1];
    const std::size_t row_bytes = static_cast<std::size_t>(columns) * dtype_bytes(out.desc.dtype);
    std::mutex mutex;
    Status first_error;
    pool_->parallel_for(
        static_cast<std::size_t>(out.desc.shape[0]), [&](std::size_t begin, std::size_t end) {
          if (begin == end) return;
          const auto rows = static_cast<std::int64_t>(end - begin);
          const Status status = model_.read_rows(
              name, first_row + static_cast<std::int64_t>(begin),
              {out.data + begin * row_bytes, {out.desc.dtype, Shape{rows, columns}}});
          const std::lock_guard lock(mutex);
          if (first_error.ok()) first_error = status;
        });
    return first_error.ok() ? first_error : first_error.with_context(name);
  }

  Device& device_;
  const ModelSource& model_;
  const CudaOptions& options_;
  std::unique_ptr<ThreadPool> pool_;
  Staging staging_;
  Stream stream_;
};

}  // namespace

Result<DeviceWeights> load_weights(Device& device, const ModelSource& model,
                                   const CudaOptions& options) {
  DeviceWeights weights;
  weights.dtype = options.dtype;
  const LlamaConfig& config = model.config();
  const ModelShare share =
      options.share != nullptr ? *options.share : ModelShare::whole(config.dims);
  const std::vector<Target> targets = plan(config, share, weights);
  if (targets.empty()) return weights;
  const std::size_t need = targets.back().offset + targets.back().weight->bytes(options.dtype);
  ASSIGN_OR_RETURN(const std::size_t have, device.free_bytes());
  if (need > have) {
    return Status(StatusCode::kResourceExhausted,
                  "{}: the weights need {:.2f} GiB of device memory, {:.2f} GiB are free: end what "
                  "else uses the GPU, give a smaller --dtype, or --device cpu",
                  device.label(), gib(need), gib(have));
  }
  ASSIGN_OR_RETURN(weights.memory, allocate(device, need, "the weights"));
  // The largest weight, if that is small, and at least the longest row.
  std::size_t piece_bytes = 0;
  for (const auto& [name, first_row, weight, offset] : targets) {
    weight->data = static_cast<std::byte*>(weights.memory.get()) + offset;
    piece_bytes = std::max({piece_bytes, std::min(weight->bytes(options.dtype), kPieceBytes),
                            static_cast<std::size_t>(weight->k) * dtype_bytes(options.dtype)});
  }
  if (config.tie_word_embeddings && share.embedding) {
    const std::size_t row_bytes =
        static_cast<std::size_t>(config.dims.hidden) * dtype_bytes(options.dtype);
    weights.lm_head = {
        weights.table.data + static_cast<std::size_t>(share.lm_head.begin) * row_bytes,
        share.lm_head.count(), config.dims.hidden};
  }
  Uploader uploader(device, model, options, piece_bytes);
  RETURN_IF_ERROR(uploader.open());
  if (options.progress) options.progress(0, need);
  Status status;
  std::size_t done = 0;
  for (const Target& target : targets) {
    status = uploader.upload(target);
    if (!status.ok()) break;
    done += target.weight->bytes(options.dtype);
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
