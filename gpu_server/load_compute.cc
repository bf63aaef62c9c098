#include "gpu_server/load_compute.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/deadline.h"
#include "base/log.h"
#include "base/sink.h"
#include "gpu_server/cuda_module.h"
#include "gpu_server/cuda_probe.h"
#include "gpu_server/device_group.h"
#include "runtime/cpu/cpu_model.h"

namespace airlock {

namespace {

constexpr std::uint64_t kRedrawNs = 100'000'000;
constexpr std::size_t kBarWidth = 30;

/// A bar with MB/s on stderr while weights load: redrawn in place on a terminal, else one line at
/// the end. One thread.
class ProgressBar {
 public:
  explicit ProgressBar(std::string what)
      : what_(std::move(what)), terminal_(::isatty(STDERR_FILENO) == 1), start_ns_(now_ns()) {}
  /// Takes away a bar that was not finished.
  ~ProgressBar() { clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// 0 bytes: the load begins only now.
  void update(std::size_t done_bytes, std::size_t total_bytes) {
    const std::uint64_t now = now_ns();
    if (done_bytes == 0) start_ns_ = now;
    done_bytes_ = done_bytes;
    last_ns_ = now;
    if (!terminal_ || total_bytes == 0 || (now - drawn_ns_ < kRedrawNs && done_bytes < total_bytes))
      return;
    drawn_ns_ = now;
    const std::size_t filled = std::min(kBarWidth, done_bytes * kBarWidth / total_bytes);
    const double mb_per_s =
        static_cast<double>(done_bytes) * 1e3 / static_cast<double>(now - start_ns_ + 1);
    const std::string line =
        fmt::format("\r{} [{}{}] {:3}% {:.0f} MB/s ", what_, std::string(filled, '#'),
                    std::string(kBarWidth - filled, ' '), done_bytes * 100 / total_bytes, mb_per_s);
    stderr_sink().write(line);
    drawn_ = true;
  }

  /// Ends the line and logs how much was loaded and how fast, up to the last update(): what a
  /// device is prepared for after that is no loading.
  void finish() {
    clear();
    const double seconds = static_cast<double>(std::max(last_ns_, start_ns_ + 1) - start_ns_) / 1e9;
    const double bytes_per_s = static_cast<double>(done_bytes_) / seconds;
    log_info(fmt::format("{}: {:.0f} MB in {:.1f} s, {}", what_,
                         static_cast<double>(done_bytes_) / 1e6, seconds,
                         bytes_per_s < 1e9 ? fmt::format("{:.0f} MB/s", bytes_per_s / 1e6)
                                           : fmt::format("{:.2f} GB/s", bytes_per_s / 1e9)));
  }

 private:
  void clear() {
    if (std::exchange(drawn_, false)) stderr_sink().write("\r\033[K");
  }

  const std::string what_;
  const bool terminal_;
  bool drawn_ = false;
  std::uint64_t start_ns_;
  std::uint64_t drawn_ns_ = 0;
  std::uint64_t last_ns_ = 0;  // of update()
  std::size_t done_bytes_ = 0;
};

LoadOptions load_options(const ServerOptions& options, const ModelSource* source,
                         const ModelShare* share, ProgressBar& bar) {
  const DType stored = source != nullptr ? source->stored_dtype() : DType::kF32;
  return {options.dtype.value_or(stored), options.threads,
          [&bar](std::size_t done, std::size_t total) { bar.update(done, total); }, share};
}

Result<LoadedCompute> load_onto_cpu(const ServerOptions& options, const ModelSource* source,
                                    const ModelShare* share) {
  if (options.tf32) log_info("--tf32 has no effect on a CPU");
  if (source == nullptr) {
    ASSIGN_OR_RETURN(std::shared_ptr<CpuModel> products,
                     CpuModel::create_without_weights(options.threads));
    return LoadedCompute{std::move(products), std::nullopt};
  }
  ProgressBar bar("loading");
  ASSIGN_OR_RETURN(std::shared_ptr<CpuModel> model,
                   CpuModel::create(*source, load_options(options, source, share, bar)));
  bar.finish();
  return LoadedCompute{std::move(model), std::nullopt};
}

Result<LoadedCompute> load_onto_gpu(const ServerOptions& options, int ordinal,
                                    const ModelSource* source, const ModelShare* share) {
  ASSIGN_OR_RETURN(const CudaModule* module, load_cuda_module(options.cuda_module));
  ProgressBar bar(fmt::format("loading onto cuda:{}", ordinal));
  const CudaOptions cuda{load_options(options, source, share, bar), ordinal, options.tf32,
                         [](const std::string& text) { log_warning(text); }};
  ASSIGN_OR_RETURN(std::shared_ptr<CudaModel> model, module->create(source, cuda));
  if (source != nullptr) bar.finish();
  const CudaDeviceInfo& info = model->device();
  log_info(fmt::format("device {}, driver {}, {:.1f} GiB", model->info().device, info.driver,
                       static_cast<double>(info.memory_bytes) / 1073741824.0));
  DeviceReport report{info.driver, info.runtime, info.cublas, info.memory_bytes};
  return LoadedCompute{std::move(model), std::move(report)};
}

Result<LoadedCompute> load_onto_gpus(const ServerOptions& options, const std::vector<int>& ordinals,
                                     const ModelSource* source, const ModelShare* share) {
  if (ordinals.size() == 1) return load_onto_gpu(options, ordinals[0], source, share);
  DeviceGroupGround ground;
  if (source != nullptr && share != nullptr) {
    ground.share = *share;
    ASSIGN_OR_RETURN(ground.placement,
                     Placement::make_within(source->config(), *share, ordinals.size()));
  } else if (source != nullptr) {
    ASSIGN_OR_RETURN(ground.placement, Placement::make(PlacementKind::kColumns, source->config(),
                                                       ordinals.size(), false));
    ASSIGN_OR_RETURN(ground.digest, source->digest());
  }
  std::optional<DeviceReport> report;
  std::size_t memory_bytes = 0;
  for (std::size_t i = 0; i < ordinals.size(); ++i) {
    const ModelShare* part = ground.placement ? &ground.placement->share(i) : nullptr;
    ASSIGN_OR_RETURN(LoadedCompute loaded, load_onto_gpu(options, ordinals[i], source, part));
    memory_bytes += loaded.device ? loaded.device->memory_bytes : 0;
    if (i == 0) report = std::move(loaded.device);
    ground.devices.push_back(std::move(loaded.model));
  }
  if (report) report->memory_bytes = memory_bytes;
  return LoadedCompute{make_device_group(std::move(ground)), std::move(report)};
}

}  // namespace

Result<std::unique_ptr<ModelSource>> open_source(const ServerOptions& options) {
  return options.model.empty() ? make_synthetic_model(options.synthetic, options.weights_seed)
                               : open_model_directory(options.model);
}

Result<DeviceChoice> choose_device(const ServerOptions& options, std::size_t local_rank) {
  if (options.device == "cpu") return DeviceChoice{{}, "cpu", false};
  const bool may_fall_back = options.device == "auto";
  const auto devices = probe_cuda();
  if (!devices.ok()) {
    if (!may_fall_back)
      return devices.status().with_context(fmt::format("--device {}", options.device));
    log_info(fmt::format("no GPU: {}: using the CPU", devices.status().message()));
    return DeviceChoice{{}, "cpu", false};
  }
  const std::size_t count = devices->size();
  std::vector<std::size_t> wanted = {local_rank % count};
  if (options.device == "cuda:all") {
    wanted.resize(count);
    std::iota(wanted.begin(), wanted.end(), std::size_t{0});
  } else if (auto listed = listed_devices(options.device)) {
    wanted = *std::move(listed);
  }
  DeviceChoice choice{{}, {}, may_fall_back};
  for (const std::size_t ordinal : wanted) {
    if (ordinal >= count) {
      return Status(StatusCode::kDevice, "--device {}: there {}: {}", options.device,
                    count == 1 ? "is 1 device" : fmt::format("are {} devices", count),
                    fmt::join(*devices, ", "));
    }
    choice.cuda_ordinals.push_back(static_cast<int>(ordinal));
    choice.name += (choice.name.empty() ? "" : ", ") + (*devices)[ordinal];
  }
  return choice;
}

Result<LoadedCompute> load_compute(const ServerOptions& options, const DeviceChoice& choice,
                                   const ModelSource* source, const ModelShare* share) {
  if (choice.cuda_ordinals.empty()) return load_onto_cpu(options, source, share);
  auto loaded = load_onto_gpus(options, choice.cuda_ordinals, source, share);
  if (loaded.ok()) return loaded;
  // What is wrong with the model is wrong with it on a CPU too.
  if (!choice.may_fall_back || loaded.status().code() == StatusCode::kInvalidInput)
    return loaded.status();
  log_warning(
      fmt::format("{} is not used: {}: using the CPU", choice.name, loaded.status().message()));
  return load_onto_cpu(options, source, share);
}

Status preload_int8(const ModelSource& source, ComputeModel& model) {
  ProgressBar bar("making int8 weights");
  RETURN_IF_ERROR(model
                      .prepare_int8(source, Int8Weights::kW8,
                                    [&bar](std::size_t done_bytes, std::size_t total_bytes) {
                                      bar.update(done_bytes, total_bytes);
                                    })
                      .status());
  bar.finish();
  return {};
}

}  // namespace airlock
