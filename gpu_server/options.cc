#include "gpu_server/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <utility>
#include <vector>

#include "base/output_file.h"
#include "gpu_server/group/launch.h"
#include "gpu_server/metrics.h"
#include "runtime/model/model_files.h"
#include "runtime/program/command_line.h"
#include "runtime/program/connection_options.h"

namespace airlock {

namespace {

Status set_device(const std::string& device, std::string& value) {
  if (device != "auto" && device != "cpu" && device != "cuda" && device != "cuda:all" &&
      !listed_devices(device)) {
    return {
        StatusCode::kUsage,
        "'{}' is neither auto, cpu, cuda, cuda:all nor cuda:N, perhaps with other N behind commas",
        device};
  }
  value = device;
  return {};
}

/// "200G": digits, then perhaps K, M, G, T, P or E, powers of 1000.
Status set_max_op_flop(const std::string& text, std::optional<std::uint64_t>& value) {
  constexpr std::string_view kUnits = "KMGTPE";
  std::uint64_t number = 0;
  const char* end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, number);
  bool good = error == std::errc() && number > 0;
  const std::size_t unit = good && rest + 1 == end ? kUnits.find(*rest) : std::string_view::npos;
  for (std::size_t i = 0; unit != std::string_view::npos && i <= unit; ++i)
    good = good && !__builtin_mul_overflow(number, std::uint64_t{1000}, &number);
  if (!good || (rest != end && unit == std::string_view::npos)) {
    return {StatusCode::kUsage,
            "'{}' is no number of operations from 1 on, perhaps with K, M, G, T, P or E behind it",
            text};
  }
  value = number;
  return {};
}

/// What the command line says of the pool, word by word.
struct PoolWords {
  std::string pool = "auto";
  std::optional<PerValue<PoolUse, std::uint32_t>> slots;
  std::optional<std::uint64_t> slot_bytes;
};

Status set_pool_slots(const std::string& text,
                      std::optional<PerValue<PoolUse, std::uint32_t>>& value) {
  PerValue<PoolUse, std::uint32_t> slots;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (std::uint32_t& count : slots) {
    const auto [rest, error] = std::from_chars(at, end, count);
    const bool is_last = &count == &slots[PoolUse::kScratch];
    const bool good = error == std::errc() && count <= limits::kMaxPoolSlots &&
                      (is_last ? rest == end : rest != end && *rest == ',');
    if (!good) {
      return {StatusCode::kUsage, "'{}' is not three numbers up to {}: IN,OUT,SCRATCH", text,
              limits::kMaxPoolSlots};
    }
    at = is_last ? rest : rest + 1;
  }
  value = slots;
  return {};
}

Status set_pool_slot_bytes(const std::string& text, std::optional<std::uint64_t>& value) {
  value = parse_size(text);
  if (value && *value >= limits::kMinPoolSlotBytes && *value <= limits::kMaxPoolSlotBytes &&
      *value % limits::kPoolPageBytes == 0) {
    return {};
  }
  return {StatusCode::kUsage,
          "'{}' is not a multiple of {} from {} to {}",
          text,
          limits::kPoolPageBytes,
          limits::kMinPoolSlotBytes,
          limits::kMaxPoolSlotBytes};
}

Result<PoolOptions> pool_options(const PoolWords& words, PoolCommit commit) {
  PoolOptions options;
  options.commit = commit;
  const bool shaped = words.slots || words.slot_bytes;
  if (words.pool == "off" || (words.pool == "auto" && !shaped)) {
    options.mode = words.pool == "off" ? PoolMode::kOff : PoolMode::kAuto;
    if (shaped) {
      return Status(StatusCode::kUsage,
                    "--pool-slots and --pool-slot-bytes shape a pool, and --pool is off");
    }
    return options;
  }
  options.mode = PoolMode::kShape;
  if (words.pool == "auto") {
    options.shape = shape_of(PoolProfile::kStandard);
  } else if (auto shape = parse_pool_shape(words.pool); shape.ok()) {
    options.shape = *shape;
  } else {
    return shape.status().with_context("--pool, unless it is auto or off");
  }
  if (words.slots) {
    options.shape.slots = *words.slots;
    options.shape.spare_slots = 0;
  }
  if (words.slot_bytes) options.shape.slot_bytes = *words.slot_bytes;
  RETURN_IF_ERROR(check_shape(options.shape));
  return options;
}

void declare_pool(const CommandOptions& command, PoolWords& words, PoolCommit& commit) {
  command.text("--pool", words.pool,
               "memory for large tensors, shared with each client: auto (the largest profile that "
               "takes a quarter of the free memory), off, low, small, standard, large, huge, or a "
               "size");
  command.parsed("--pool-slots", "IN,OUT,SCRATCH", "slots of the pool, instead of the profile's",
                 [&](const std::string& text) { return set_pool_slots(text, words.slots); });
  command.parsed(
      "--pool-slot-bytes", "BYTES", "bytes of a slot of the pool, instead of the profile's",
      [&](const std::string& text) { return set_pool_slot_bytes(text, words.slot_bytes); });
  command.choice("--pool-commit", commit,
                 "take the pool's memory as it is touched, or all at start");
}

constexpr std::array kFloatTypes = {DType::kF32, DType::kF16, DType::kBF16};

void declare(const CommandOptions& command, ServerOptions& options, PoolWords& pool) {
  const CommandOption model = command.text(
      "--model", options.model, "Hugging Face LLaMA directory (config.json, safetensors)");
  const CommandOption synthetic = command.text("--synthetic", options.synthetic,
                                               "serve random weights of this config.json's shape");
  (void)model.excludes(synthetic);
  (void)command
      .flag("--no-model", options.no_model,
            "serve the pool, and products of the clients' own arrays, alone")
      .excludes(model)
      .excludes(synthetic);
  command
      .number("--weights-seed", options.weights_seed, std::uint64_t{0}, UINT64_MAX,
              "seed of --synthetic weights")
      .needs(synthetic);
  declare_endpoint(command, options.endpoint);
  command.parsed("--device", "D",
                 "auto, cpu, cuda, cuda:N, or several GPUs: cuda:all, cuda:N,M,...",
                 [&](const std::string& text) { return set_device(text, options.device); });
  command.text("--cuda-module", options.cuda_module,
               "the module for a GPU (default: airlock_cuda.so beside this program)");
  command.flag("--tf32", options.tf32, "let a GPU round the operands of fp32 products to TF32");
  command.choice<DType>("--dtype", options.dtype,
                        "what weights are rounded to: auto (as stored), fp32, fp16, bf16",
                        kFloatTypes);
  declare_threads(command, options.threads);
  options.threads = threads_of_a_rank(options.threads, find_launch());
  command.choice("--placement", options.placement,
                 "of several ranks (mpirun, srun): which weights each holds, some layers (between "
                 "hosts) or some columns of each (within a host)");
  command.flag("--door-only", options.door_only,
               "rank 0 has the clients and holds no weights, as where it runs on the TEE's host");
  command.text("--mpi-module", options.mpi_module,
               "the module for several ranks (default: airlock_mpi.so beside this program)");
  command.choice("--int8", options.int8,
                 "make the int8 weights of private sessions when one asks, or (w8) at start");
  declare_ring(command, options.ring, RingSide::kServer);
  command.parsed("--path-limit", "auto|BYTES",
                 "tensors of fewer bytes may go by the ring: as many, or what each session finds "
                 "by trying (default: what a slot has)",
                 [&options](const std::string& text) -> Status {
                   options.finds_path_limit = text == "auto";
                   if (options.finds_path_limit) return {};
                   const auto bytes = parse_size(text);
                   if (!bytes || *bytes < 1 || *bytes > limits::kMaxSlotBytes) {
                     return {StatusCode::kUsage, "'{}' is neither auto nor a size from 1 to {}",
                             text, limits::kMaxSlotBytes};
                   }
                   options.path_limit = static_cast<std::uint32_t>(*bytes);
                   return {};
                 });
  declare_pool(command, pool, options.pool.commit);
  command.number("--max-clients", options.max_clients, std::size_t{1}, limits::kMaxClients,
                 "sessions at once");
  declare_data_sockets(command, options.data_sockets);
  command.parsed(
      "--max-op-flop", "N",
      "refuse an op of more multiplications and additions (500G, 2T; default: what the "
      "model's own ops may take)",
      [&](const std::string& text) { return set_max_op_flop(text, options.max_op_flop); });
  command.flag("--insecure-tcp", options.insecure_tcp,
               "allow a tcp endpoint without keys, or --metrics, beyond loopback");
  const CommandOption authorized = command.file(
      "--authorized-keys", options.authorized_keys,
      "let in over tcp who has one of these keys, a NAME.pub of airlock_keygen in each line");
  const CommandOption key =
      command.file("--key", options.key, "this server's own key (NAME.key), for a tcp endpoint");
  (void)key.needs(authorized);
  (void)authorized.needs(key);
  declare_drain(command, options.drain_seconds,
                "at SIGTERM, how long sessions are served on while no new one is taken (0)");
  command.text("--metrics", options.metrics,
               "serve Prometheus metrics at http://HOST:PORT/metrics, and /healthz and /readyz (as "
               "127.0.0.1:9464; port 0: any free one, named in the log)");
  command.file("--stats-json", options.stats_json, "write the statistics to this file");
  command.real("--stats-interval", options.stats_interval_s, 0.001, 86400,
               "print the statistics every so many seconds");
}

}  // namespace

std::optional<std::vector<std::size_t>> listed_devices(std::string_view device) {
  constexpr std::string_view kPrefix = "cuda:";
  constexpr std::size_t kMaxDigits = 3;
  if (!device.starts_with(kPrefix)) return std::nullopt;
  std::vector<std::size_t> listed;
  const char* at = device.data() + kPrefix.size();
  const char* const end = device.data() + device.size();
  for (;;) {
    std::size_t ordinal = 0;
    const auto [rest, error] = std::from_chars(at, end, ordinal);
    if (error != std::errc() || rest > at + kMaxDigits) return std::nullopt;
    if (std::ranges::find(listed, ordinal) != listed.end()) return std::nullopt;
    listed.push_back(ordinal);
    if (rest == end) return listed;
    if (*rest != ',') return std::nullopt;
    at = rest + 1;
  }
}

Result<std::optional<ServerOptions>> parse_server_options(int argc, const char* const* argv) {
  ServerOptions options;
  const CommandLine line(
      "gpu_server",
      "The untrusted side of Airlock: computes embedding, linear, matmul and lm_head for "
      "tee_runner.\n"
      "Of plain sessions it sees token ids and every activation (docs/THREAT_MODEL.md), of private "
      "ones what docs/PRIVACY.md says.",
      protocol_suffix());
  PoolWords pool;
  declare(line.options(), options, pool);
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  if (!asked) return std::optional<ServerOptions>();
  if (options.model.empty() && options.synthetic.empty() && !options.no_model) {
    return line.refuse(
        "give --model DIR or --synthetic CONFIG.json, or --no-model for the pool alone");
  }
  if (options.no_model && options.int8 == Int8Making::kPreload)
    return line.refuse("--int8 preload is of a model's weights");
  const auto launch = find_launch();
  const bool is_of_group = launch.has_value();
  if (launch) options.ranks = launch->ranks;
  if (is_of_group && options.no_model)
    return line.refuse("--no-model is of one process, and a launcher has started several");
  if (!is_of_group && options.door_only) {
    return line.refuse("--door-only is of several ranks: start gpu_server by mpirun or srun");
  }
  if (options.no_model && options.dtype) return line.refuse("--dtype is of a model's weights");
  if (options.path_limit.value_or(0) > options.ring.slot_bytes) {
    return line.refuse(
        fmt::format("--path-limit: {} is more than the {} bytes of a slot (--ring-slot-bytes)",
                    *options.path_limit, options.ring.slot_bytes));
  }
  auto pool_shape = pool_options(pool, options.pool.commit);
  if (!pool_shape.ok()) return line.refuse(pool_shape.status().message());
  options.pool = *pool_shape;
  if (!options.metrics.empty()) {
    RETURN_IF_ERROR(check_metrics_address(options.metrics, options.insecure_tcp));
  }
  std::vector<NamedFile> inputs = {{"--synthetic", options.synthetic},
                                   {"--cuda-module", options.cuda_module},
                                   {"--mpi-module", options.mpi_module}};
  for (std::string& path : model_files(options.model))
    inputs.push_back({"--model", std::move(path)});
  RETURN_IF_ERROR(check_apart(std::array{NamedFile{"--stats-json", options.stats_json}}, inputs));
  return std::optional<ServerOptions>(options);
}

}  // namespace airlock
