#include "tools/airlock_xfer/options.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "runtime/program/command_line.h"
#include "runtime/program/connection_options.h"
#include "tools/airlock_xfer/plan.h"

namespace airlock::xfer {
namespace {

constexpr std::uint64_t kMaxIterations = 1'000'000;
constexpr std::size_t kMaxInflight = 64;
constexpr std::int64_t kMinTimeoutMs = 100;
constexpr std::int64_t kMaxTimeoutMs = 3'600'000;

/// A size with or without a suffix.
CommandOption declare_size(const CommandOptions& command, const std::string& name,
                           std::size_t& bytes, const std::string& help) {
  return command.parsed(name, "BYTES", help, [&bytes](const std::string& text) -> Status {
    const auto parsed = parse_size(text);
    if (!parsed) {
      return {StatusCode::kUsage, "'{}' is no size: give bytes, or 4K, 128M, 1G", text};
    }
    bytes = *parsed;
    return {};
  });
}

Status parse_paths(const std::string& text, std::vector<std::optional<Path>>& paths) {
  paths.clear();
  std::stringstream words(text + ",");
  for (std::string word; std::getline(words, word, ',');) {
    const auto path = from_name<Path>(word);
    if (!path && word != path_name(std::nullopt)) {
      return {StatusCode::kUsage, "'{}' is not one of: {}, {}", word, names_of<Path>(),
              path_name(std::nullopt)};
    }
    if (std::ranges::find(paths, path) != paths.end()) {
      return {StatusCode::kUsage, "'{}' is there twice", word};
    }
    paths.push_back(path);
  }
  return {};
}

/// Whether this process may use `cpu`.
bool may_use_cpu(int cpu) {
  cpu_set_t allowed;
  return cpu >= 0 && cpu < CPU_SETSIZE && ::sched_getaffinity(0, sizeof(allowed), &allowed) == 0 &&
         CPU_ISSET(static_cast<unsigned>(cpu), &allowed);
}

Status parse_cpus(const std::string& text, std::optional<CpuPair>& value) {
  CpuPair cpus{};
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, cpus[0]);
  const bool has_comma = first.ptr != end && *first.ptr == ',';
  const auto second = std::from_chars(has_comma ? first.ptr + 1 : end, end, cpus[1]);
  if (first.ec != std::errc() || second.ec != std::errc() || second.ptr != end) {
    return {StatusCode::kUsage, "'{}' are not two CPU numbers, as 0,1", text};
  }
  for (const int cpu : cpus) {
    if (!may_use_cpu(cpu)) return {StatusCode::kUsage, "this process may not use CPU {}", cpu};
  }
  value = cpus;
  return {};
}

/// Gives --step.
CommandOption declare(const CommandOptions& command, Options& options, SizeRange& range,
                      bool& json) {
  command.parsed(
      "--path", "PATHS",
      "paths to measure, with commas: ring and pool (sizes that they cannot carry are n/a), "
      "zmq (no ring), auto (what the runtime takes for the size)",
      [&](const std::string& text) { return parse_paths(text, options.paths); });
  declare_size(command, "-b,--min-bytes", range.min_bytes,
               "smallest size (64; suffixes K, M, G: 1024^n)");
  declare_size(command, "-e,--max-bytes", range.max_bytes, "largest size (128M; at most 4G)");
  const CommandOption factor =
      command.real("-f,--factor", range.factor, 0, 1e18, "each size is this times the last (2)");
  const CommandOption step = declare_size(command, "-i,--step", range.step_bytes,
                                          "each size is this many bytes more than the last")
                                 .excludes(factor);
  command.number("-n,--iterations", options.iterations, std::uint64_t{1}, kMaxIterations,
                 "timed iterations a row (100)");
  command.number("-w,--warmup", options.warmup, std::uint64_t{0}, kMaxIterations,
                 "iterations before, not counted (10)");
  command.number("-c,--check", options.check, 0, 1,
                 "1: check every byte of every message, outside the timed part; 0: do not (1)");
  command.choice("--mode", options.mode,
                 "echo: round trips of a tensor; stream: one way, several under way, acknowledged "
                 "by small replies (echo)");
  command.number("--inflight", options.inflight, std::size_t{1}, kMaxInflight,
                 "messages under way at most in stream mode (4)");
  declare_ring_slots(command, options.geometry.slot_count, "slots of each ring (8)");
  declare_ring_slot_bytes(
      command, options.geometry.slot_bytes,
      "payload bytes of a slot, also the path limit (10485760; suffixes as for -b)");
  command.choice("--zmq", options.zmq,
                 "data sockets over ipc (Unix sockets) or tcp (loopback) (ipc)");
  command.parsed("--cpus", "A,B",
                 "A,B: keep this process's main thread on CPU A and the peer's on CPU B (else the "
                 "system may put both on one; the summary says where it did)",
                 [&](const std::string& text) { return parse_cpus(text, options.cpus); });
  command.real("--max-seconds", options.max_seconds, 0.001, 600,
               "a row ends after this time, though not before 3 iterations (2)");
  command.number("--timeout-ms", options.timeout, kMinTimeoutMs, kMaxTimeoutMs,
                 "longest wait for the peer; one second more for each 64 MiB of a message (10000)");
  const CommandOption form = command.choice("-o,--output", options.form, "md, csv or json (md)");
  (void)command.flag("--json", json, "the same as -o json").excludes(form);
  return step;
}

}  // namespace

Result<std::optional<Options>> parse_options(int argc, const char* const* argv) {
  Options options;
  SizeRange range{.min_bytes = 64, .max_bytes = std::size_t{128} << 20};
  bool json = false;
  const CommandLine line(
      "airlock_xfer",
      "Measures Airlock's channels between two processes: it forks its own peer.\n"
      "One row for each size and path, on stdout. Exit codes: 0 done, 2 usage, 3 the peer died or\n"
      "stalled, 4 wrong bytes, 5 no room in memory or /dev/shm.");
  const CommandOption step = declare(line.options(), options, range, json);
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  if (!asked) return std::optional<Options>();
  if (step.given() && range.step_bytes == 0)
    return line.refuse("-i 0: the step must be at least 1");
  range.limit_bytes = options.geometry.slot_bytes;
  auto sizes = plan_sizes(range);
  if (!sizes.ok()) return line.refuse(sizes.status().message());
  options.sizes = std::move(sizes).value();
  options.sizes_text =
      fmt::format("{} to {} bytes, {}; and {} - 4096, {} and {} + 4096 where within",
                  range.min_bytes, range.max_bytes,
                  range.step_bytes != 0 ? fmt::format("step {}", range.step_bytes)
                                        : fmt::format("factor {}", range.factor),
                  range.limit_bytes, range.limit_bytes, range.limit_bytes);
  if (json) options.form = OutputForm::kJson;
  options.command = fmt::format("{}", fmt::join(argv, argv + argc, " "));
  return std::optional<Options>(std::move(options));
}

}  // namespace airlock::xfer
