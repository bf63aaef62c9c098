#include "tools/airlock_pool/options.h"

#include <array>
#include <bit>
#include <vector>

#include "runtime/program/command_line.h"
#include "runtime/program/connection_options.h"
#include "runtime/rpc/endpoint.h"

namespace airlock::pool_tool {
namespace {

constexpr std::uint64_t kMinBytes = 64;
constexpr std::uint64_t kMaxRounds = 1'000'000;
constexpr std::array kForms = {OutputForm::kMarkdown, OutputForm::kJson};

struct Seconds {
  double interval = 2;
  double max = 2;
};

std::chrono::nanoseconds nanoseconds(double seconds) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
}

Status set_power_of_two(const std::string& text, std::uint64_t& bytes) {
  const auto parsed = parse_size(text);
  if (!parsed || !std::has_single_bit(*parsed) || *parsed < kMinBytes ||
      *parsed > limits::kMaxTensorBytes) {
    return {StatusCode::kUsage, "'{}' is not a power of two from {} to {} bytes", text, kMinBytes,
            limits::kMaxTensorBytes};
  }
  bytes = *parsed;
  return {};
}

void declare_timeout(const CommandOptions& command, std::chrono::milliseconds& timeout) {
  command.number("--timeout-ms", timeout, std::int64_t{1}, std::int64_t{3'600'000},
                 "the longest wait for the server (10000)");
}

void declare_bench(const CommandOptions& command, Options& options, Seconds& seconds) {
  command.parsed(
      "--begin", "BYTES", "smallest size, a power of two (1K; K, M, G: 1024^n)",
      [&](const std::string& text) { return set_power_of_two(text, options.begin_bytes); });
  command.parsed(
      "--end", "BYTES", "largest size, a power of two (1G)",
      [&](const std::string& text) { return set_power_of_two(text, options.end_bytes); });
  command.number("--rounds", options.rounds, std::uint64_t{1}, kMaxRounds,
                 "products of each size, after one that is not counted (20)");
  command.real("--max-seconds", seconds.max, 0.001, 600,
               "a size ends after this time, though not before its first round (2)");
  declare_timeout(command, options.timeout);
  declare_keys(command, options.keys.own, options.keys.server);
}

}  // namespace

Result<std::optional<Options>> parse_options(int argc, const char* const* argv) {
  Options options;
  Seconds seconds;
  CommandLine line("airlock_pool",
                   "The memory that a gpu_server shares with its clients for large tensors: who "
                   "has what of it, what stands in the way, what it takes (docs/POOL.md).");
  line.require_subcommand();
  std::vector<CommandOptions> declared;
  const auto declare = [&](Command command, const std::string& help) {
    const CommandOptions made = line.options().subcommand(std::string(name_of(command)), help);
    declare_endpoint(made, options.endpoint);
    made.choice<OutputForm>("-o", options.form, "md: lines and tables, json: one object a line",
                            kForms);
    declared.push_back(made);
    return made;
  };
  declare(Command::kList, "the pool's shape, what is free of it, and who has the rest");
  (void)declare(Command::kWatch, "the same again and again, until SIGINT or the server's end")
      .real("--interval", seconds.interval, 0.01, 86400, "every so many seconds (2)");
  const CommandOptions check = declare(
      Command::kCheck, "what stands in the way of a client; leases a little and multiplies");
  check.parsed("--pool", "PROFILE|BYTES", "the pool that there should be, as for gpu_server",
               [&](const std::string& text) -> Status {
                 ASSIGN_OR_RETURN(options.expected, parse_pool_shape(text));
                 return {};
               });
  declare_timeout(check, options.timeout);
  declare_bench(declare(Command::kBench, "what it takes to have a product computed, by size"),
                options, seconds);
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  if (!asked) return std::optional<Options>();
  for (const Command command : kValuesOf<Command>) {
    if (declared[index_of(command)].chosen()) options.command = command;
  }
  if (options.begin_bytes > options.end_bytes) return line.refuse("--begin is more than --end");
  if (options.endpoint.empty()) options.endpoint = default_endpoint().text();
  RETURN_IF_ERROR(parse_endpoint(options.endpoint).status());
  options.interval = nanoseconds(seconds.interval);
  options.max_time = nanoseconds(seconds.max);
  return std::optional<Options>(std::move(options));
}

}  // namespace airlock::pool_tool
