#include "gpu_server/load_compute.h"

#include <fmt/format.h>

#include <cstdlib>
#include <utility>

#include "base/log.h"
#include "gpu_server/cuda_module.h"
#include "gpu_server/cuda_probe.h"
#include "gpu_server/progress_bar.h"
#include "runtime/cpu/cpu_model.h"

namespace airlock {

namespace {

std::string device_name(const CudaProbe& probe, std::size_t ordinal) {
  return fmt::format("cuda:{} {}", ordinal, probe.device_names[ordinal]);
}

Status not_there(const std::string& asked, const CudaProbe& probe) {
  const std::size_t count = probe.device_names.size();
  std::string list;
  for (std::size_t i = 0; i < count; ++i) list += (i == 0 ? "" : ", ") + device_name(probe, i);
  return {StatusCode::kDevice,
          "--device {}: there {} {} {}: {}",
          asked,
          count == 1 ? "is" : "are",
          count,
          count == 1 ? "device" : "devices",
          list};
}

Result<LoadedCompute> load_onto_cpu(const ServerOptions& options, const ModelSource& source) {
  if (options.tf32) log_info("--tf32 has no effect on a CPU");
  ProgressBar bar("loading");
  CpuOptions cpu;
  cpu.dtype = options.dtype.value_or(source.stored_dtype());
  cpu.threads = options.threads;
  cpu.progress = [&bar](std::size_t done, std::size_t total) { bar.update(done, total); };
  ASSIGN_OR_RETURN(std::shared_ptr<CpuModel> model, CpuModel::create(source, cpu));
  bar.finish();
  return LoadedCompute{std::move(model), std::nullopt};
}

Result<LoadedCompute> load_onto_gpu(const ServerOptions& options, int ordinal,
                                    const ModelSource& source) {
  ASSIGN_OR_RETURN(const CudaModule* module, load_cuda_module(options.cuda_module));
  ProgressBar bar(fmt::format("loading onto cuda:{}", ordinal));
  CudaOptions cuda;
  cuda.device = ordinal;
  cuda.dtype = options.dtype.value_or(source.stored_dtype());
  cuda.tf32 = options.tf32;
  cuda.threads = options.threads;
  cuda.progress = [&bar](std::size_t done, std::size_t total) { bar.update(done, total); };
  cuda.warn = [](const std::string& text) { log_warning(text); };
  ASSIGN_OR_RETURN(std::shared_ptr<CudaModel> model, module->create(source, cuda));
  bar.finish();
  const CudaDeviceInfo& info = model->device();
  log_info(fmt::format("device {}, driver {}, {:.1f} GiB", model->info().device, info.driver,
                       static_cast<double>(info.memory_bytes) / 1073741824.0));
  DeviceReport report{info.driver, info.runtime, info.cublas, info.memory_bytes};
  return LoadedCompute{std::move(model), std::move(report)};
}

}  // namespace

Result<DeviceChoice> choose_device(const ServerOptions& options) {
  if (options.device == "cpu") return DeviceChoice{-1, "cpu", false};
  const bool may_fall_back = options.device == "auto";
  auto probe = probe_cuda();
  if (!probe.ok()) {
    if (!may_fall_back)
      return probe.status().with_context(fmt::format("--device {}", options.device));
    log_info(fmt::format("no GPU: {}: using the CPU", probe.status().message()));
    return DeviceChoice{-1, "cpu", false};
  }
  const std::size_t colon = options.device.find(':');  // what follows was checked: 1 to 3 digits
  const int ordinal =
      colon == std::string::npos ? 0 : std::atoi(options.device.c_str() + colon + 1);
  const auto index = static_cast<std::size_t>(ordinal);
  if (index >= probe->device_names.size()) return not_there(options.device, *probe);
  return DeviceChoice{ordinal, device_name(*probe, index), may_fall_back};
}

Result<LoadedCompute> load_compute(const ServerOptions& options, const DeviceChoice& choice,
                                   const ModelSource& source) {
  if (choice.cuda_ordinal < 0) return load_onto_cpu(options, source);
  auto loaded = load_onto_gpu(options, choice.cuda_ordinal, source);
  if (loaded.ok()) return loaded;
  // What is wrong with the model is wrong with it on a CPU too.
  if (!choice.may_fall_back || loaded.status().code() == StatusCode::kInvalidInput)
    return loaded.status();
  log_warning(
      fmt::format("{} is not used: {}: using the CPU", choice.name, loaded.status().message()));
  return load_onto_cpu(options, source);
}

}  // namespace airlock
