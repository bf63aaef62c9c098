// Speed of the CUDA module and of what it stands on, in one process: copies, ops, prefills. JSON on
// stdout, progress on stderr. tools/gpu_check runs it and keeps what it says.
#include "bench/cuda/cuda_bench.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <optional>

#include "base/cpu_count.h"
#include "base/version.h"
#include "bench/cuda/check.h"
#include "gpu_server/cuda_module.h"
#include "proto/limits.h"

namespace airlock::bench {
namespace {

struct Options {
  std::string module;
  int device = 0;
  std::vector<std::string> configs;
  std::vector<std::string> dtypes{"bf16", "fp32"};
  std::vector<std::int64_t> tokens{128, 1024};
  std::string attention = "offload";
  std::size_t threads = usable_cpu_count();
  std::size_t largest_mib = 256;
  int calls = 30;
  int repeat = 10;
};

void declare(CLI::App& app, Options& options) {
  app.add_option("--device", options.device, "ordinal of the GPU")->check(CLI::Range(0, 999));
  app.require_subcommand(1);
  app.add_subcommand("copies", "host to device and back, pinned and not, and memcpy")
      ->add_option("--largest-mib", options.largest_mib, "the largest copy")
      ->check(CLI::Range(std::size_t{1}, std::size_t{4096}));
  auto* ops = app.add_subcommand("ops", "each op through the module, and by a bare cuBLAS call");
  auto* prefill = app.add_subcommand("prefill", "the whole prefill in this one process");
  for (CLI::App* part : {ops, prefill}) {
    part->add_option("--cuda-module", options.module, "airlock_cuda.so (default: beside this one)");
    part->add_option("--config", options.configs, "config.json of a model's shape")->required();
    part->add_option("--dtype", options.dtypes, "of weights and tensors: fp32, fp16, bf16")
        ->delimiter(',')
        ->check(CLI::IsMember({"fp32", "fp16", "bf16"}));
    part->add_option("--tokens", options.tokens, "rows of the inputs")
        ->delimiter(',')
        ->check(CLI::Range(std::int64_t{1}, limits::kMaxTokens));
    part->add_option("--threads", options.threads, "of this process, for its own work")
        ->check(CLI::Range(std::size_t{1}, limits::kMaxThreads));
  }
  ops->add_option("--calls", options.calls, "counted calls of each op")
      ->check(CLI::Range(2, 10000));
  prefill->add_option("--repeat", options.repeat, "counted prefills")->check(CLI::Range(1, 10000));
  prefill->add_option("--attention", options.attention, "offload or tee")
      ->check(CLI::IsMember({"offload", "tee"}));
}

std::string device_record(int device) {
  cudaDeviceProp properties{};
  must(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  int driver = 0;
  int runtime = 0;
  must(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  must(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  must(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  Record record;
  record.text("name", properties.name)
      .text("compute_capability", fmt::format("{}.{}", properties.major, properties.minor))
      .count("multiprocessors", static_cast<std::uint64_t>(properties.multiProcessorCount))
      .text("driver_cuda", fmt::format("{}.{}", driver / 1000, driver % 1000 / 10))
      .text("runtime_cuda", fmt::format("{}.{}", runtime / 1000, runtime % 1000 / 10))
      .count("memory_bytes", total_bytes)
      .count("free_bytes", free_bytes);
  return record.json();
}

std::vector<DType> dtypes_of(const std::vector<std::string>& names) {
  std::vector<DType> dtypes;
  for (const std::string& name : names) {
    const auto dtype = from_name<DType>(name);
    CHECK(dtype.has_value());  // the option takes no other
    dtypes.push_back(*dtype);
  }
  return dtypes;
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app{"Speed of airlock_cuda.so beside bare CUDA calls. Needs a GPU."};
  declare(app, options);
  app.set_version_flag("--version", fmt::format("cuda_bench {}", kVersion));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_code(StatusCode::kUsage);
  }
  must(cudaSetDevice(options.device), fmt::format("cudaSetDevice({})", options.device));
  std::vector<std::string> records;
  if (app.got_subcommand("copies")) {
    records = run_copies(options.largest_mib << 20);
  } else {
    const auto module = load_cuda_module(options.module);
    must(module.status(), "airlock_cuda.so");
    const std::vector<DType> dtypes = dtypes_of(options.dtypes);
    if (app.got_subcommand("ops")) {
      records = run_ops({.module = *module,
                         .device = options.device,
                         .configs = options.configs,
                         .dtypes = dtypes,
                         .tokens = options.tokens,
                         .threads = options.threads,
                         .calls = options.calls});
    } else {
      const Attention attention =
          options.attention == "tee" ? Attention::kTee : Attention::kOffload;
      records = run_prefills({.module = *module,
                              .device = options.device,
                              .config = options.configs.front(),
                              .dtype = dtypes.front(),
                              .tokens = options.tokens,
                              .attention = attention,
                              .threads = options.threads,
                              .repeat = options.repeat});
    }
  }
  fmt::print("{{\"device\":{},\n\"results\":[\n{}\n]}}\n", device_record(options.device),
             fmt::join(records, ",\n"));
  return 0;
}

}  // namespace
}  // namespace airlock::bench

int main(int argc, char** argv) { return airlock::bench::run(argc, argv); }
