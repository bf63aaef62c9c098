#include "gpu_server/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <iostream>
#include <thread>

#include "base/version.h"
#include "gpu_server/metrics.h"
#include "proto/handshake.h"

namespace airlock {

namespace {

std::string check_device(const std::string& device) {
  const bool numbered = device.starts_with("cuda:") && device.size() > 5 && device.size() <= 8 &&
                        std::all_of(device.begin() + 5, device.end(),
                                    [](unsigned char c) { return std::isdigit(c) != 0; });
  if (device == "auto" || device == "cpu" || device == "cuda" || numbered) return {};
  return "'" + device + "' is neither auto, cpu, cuda nor cuda:N";
}

std::string check_slot_bytes(const std::string& text) {
  char* end = nullptr;
  const unsigned long long bytes = std::strtoull(text.c_str(), &end, 10);
  if (*end != '\0' || bytes < limits::kMinSlotBytes || bytes > limits::kMaxSlotBytes ||
      bytes % 4096 != 0) {
    return fmt::format("'{}' is not a multiple of 4096 from {} to {}", text, limits::kMinSlotBytes,
                       limits::kMaxSlotBytes);
  }
  return {};
}

std::string check_interval(const std::string& text) {
  char* end = nullptr;
  const double seconds = std::strtod(text.c_str(), &end);
  if (*end == '\0' && seconds >= 0.001 && seconds <= 86400.0) return {};  // false for NaN
  return "'" + text + "' is not a number of seconds from 0.001 to 86400";
}

void declare(CLI::App& app, ServerOptions& options, std::string& dtype, std::string& ring) {
  auto* model = app.add_option("--model", options.model,
                               "Hugging Face LLaMA directory (config.json, safetensors)");
  auto* synthetic = app.add_option("--synthetic", options.synthetic,
                                   "serve random weights of this config.json's shape");
  model->excludes(synthetic);
  app.add_option("--weights-seed", options.weights_seed, "seed of --synthetic weights")
      ->needs(synthetic);
  app.add_option("--endpoint", options.endpoint,
                 "ipc:///path or tcp://host:port (default $XDG_RUNTIME_DIR/airlock/ctl, else "
                 "/tmp/airlock-UID/ctl)");
  app.add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->check(check_device);
  app.add_option("--cuda-module", options.cuda_module,
                 "the module for a GPU (default: airlock_cuda.so beside this program)");
  app.add_flag("--tf32", options.tf32, "let a GPU round the operands of fp32 products to TF32");
  app.add_option("--dtype", dtype,
                 "what weights are rounded to: auto (as stored), fp32, fp16, bf16")
      ->check(CLI::IsMember({"auto", "fp32", "fp16", "bf16"}));
  app.add_option("--threads", options.threads, "compute threads in all")
      ->check(CLI::Range(std::size_t{1}, limits::kMaxThreads));
  app.add_option("--ring", ring, "shared-memory ring: auto (on for ipc), on, off")
      ->check(CLI::IsMember({"auto", "on", "off"}));
  app.add_option("--ring-slots", options.ring.slot_count, "slots of each ring")
      ->check(CLI::Range(limits::kMinSlotCount, limits::kMaxSlotCount));
  app.add_option("--ring-slot-bytes", options.ring.slot_bytes,
                 "payload bytes of a slot; also the path limit")
      ->check(check_slot_bytes);
  app.add_option("--max-clients", options.max_clients, "sessions at once")
      ->check(CLI::Range(std::size_t{1}, limits::kMaxClients));
  app.add_flag("--insecure-tcp", options.insecure_tcp,
               "allow a tcp endpoint or --metrics beyond loopback: no encryption, no keys");
  app.add_option("--metrics", options.metrics,
                 "serve Prometheus metrics at http://HOST:PORT/metrics (as 127.0.0.1:9464; port 0: "
                 "any free one, named in the log)");
  app.add_option("--stats-json", options.stats_json, "write the statistics to this file");
  app.add_option("--stats-interval", options.stats_interval_s,
                 "print the statistics every so many seconds")
      ->check(check_interval);
  app.set_version_flag("--version", fmt::format("gpu_server {}, protocol {}.{}", kVersion,
                                                kProtocolMajor, kProtocolMinor));
}

}  // namespace

Result<std::optional<ServerOptions>> parse_server_options(int argc, const char* const* argv) {
  ServerOptions options;
  options.threads = std::max(1U, std::thread::hardware_concurrency());
  std::string dtype = "auto";
  std::string ring = "auto";
  CLI::App app{
      "The untrusted side of Airlock: computes embedding, linear, matmul and lm_head for "
      "tee_runner.\n"
      "In this mode it sees token ids and every activation (docs/THREAT_MODEL.md)."};
  declare(app, options, dtype, ring);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error, std::cout, std::cerr);
      return std::optional<ServerOptions>();
    }
    return Status(StatusCode::kUsage, std::string(error.what()) + " (see gpu_server --help)");
  }
  if (options.model.empty() && options.synthetic.empty()) {
    return Status(StatusCode::kUsage,
                  "give --model DIR or --synthetic CONFIG.json (see gpu_server --help)");
  }
  if (!options.metrics.empty()) {
    RETURN_IF_ERROR(check_metrics_address(options.metrics, options.insecure_tcp));
  }
  options.dtype = from_name<DType>(dtype);
  options.ring.choice = *from_name<RingChoice>(ring);
  return std::optional<ServerOptions>(options);
}

}  // namespace airlock
