#include "tools/airlock_xfer/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "runtime/program/command_line.h"
#include "runtime/program/connection_options.h"
#include "tools/airlock_xfer/plan.h"

namespace airlock::xfer {
namespace {

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

Status parse_paths(const std::string& text, std::vector<PathAsked>& paths) {
  paths.clear();
  std::stringstream words(text + ",");
  for (std::string word; std::getline(words, word, ',');) {
    const auto found = from_name<PathAsked>(word);
    if (!found) {
      return {StatusCode::kUsage, "'{}' is not one of: {}", word, names_of<PathAsked>()};
    }
    if (std::ranges::find(paths, *found) != paths.end()) {
      return {StatusCode::kUsage, "'{}' is there twice", word};
    }
    paths.push_back(*found);
  }
  return {};
}

Status parse_cpus(const std::string& text, std::optional<CpuPair>& value) {
  CpuPair cpus{};
  const char* at = text.data();
  const char* const end = at + text.size();
  bool is_pair = true;
  for (std::size_t i = 0; i < cpus.size() && is_pair; ++i) {
    if (i > 0) is_pair = at != end && *at++ == ',';
    const auto [stop, error] = std::from_chars(at, end, cpus[i]);
    is_pair = is_pair && error == std::errc();
    at = stop;
  }
  if (!is_pair || at != end) {
    return {StatusCode::kUsage, "'{}' are not two CPU numbers, as 0,1", text};
  }
  for (const int cpu : cpus) {
    if (may_use_cpu(cpu)) continue;
    return {StatusCode::kUsage, "this process may not use CPU {}", cpu};
  }
  value = cpus;
  return {};
}

/// Gives --step.
CommandOption declare(const CommandOptions& command, Options& options, SizeRange& range,
                      std::int64_t& timeout_ms, bool& json) {
  command.parsed("--path", "PATHS",
                 "paths to measure, with commas: ring (sizes that it cannot carry are n/a), zmq "
                 "(no ring), auto (what the runtime takes for the size)",
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
  command.number("--timeout-ms", timeout_ms, kMinTimeoutMs, kMaxTimeoutMs,
                 "longest wait for the peer; one second more for each 64 MiB of a message (10000)");
  const CommandOption form = command.choice("-o,--output", options.form, "md, csv or json (md)");
  (void)command.flag("--json", json, "the same as -o json").excludes(form);
  return step;
}

Status plan(const CommandOption& step, SizeRange range, Options& options) {
  range.limit_bytes = options.geometry.slot_bytes;
  if (step.given() && range.step_bytes == 0) {
    return {StatusCode::kUsage, "-i 0: the step must be at least 1"};
  }
  ASSIGN_OR_RETURN(options.sizes, plan_sizes(range));
  options.sizes_text =
      fmt::format("{} to {} bytes, {}; and {} - 4096, {} and {} + 4096 where within",
                  range.min_bytes, range.max_bytes,
                  range.step_bytes != 0 ? fmt::format("step {}", range.step_bytes)
                                        : fmt::format("factor {}", range.factor),
                  range.limit_bytes, range.limit_bytes, range.limit_bytes);
  return {};
}

}  // namespace

Result<std::optional<Options>> parse_options(int argc, const char* const* argv) {
  Options options;
  SizeRange range;
  range.min_bytes = 64;
  range.max_bytes = std::size_t{128} << 20;
  std::int64_t timeout_ms = options.timeout.count();
  bool json = false;
  const CommandLine line(
      "airlock_xfer",
      "Measures Airlock's channels between two processes: it forks its own peer.\n"
      "One row for each size and path, on stdout. Exit codes: 0 done, 2 usage, 3 the peer died or\n"
      "stalled, 4 wrong bytes, 5 no room in memory or /dev/shm.");
  const CommandOption step = declare(line.options(), options, range, timeout_ms, json);
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  if (!asked) return std::optional<Options>();
  if (Status planned = plan(step, range, options); !planned.ok()) {
    return line.refuse(planned.message());
  }
  if (json) options.form = OutputForm::kJson;
  options.timeout = std::chrono::milliseconds(timeout_ms);
  options.command = fmt::format("{}", fmt::join(argv, argv + argc, " "));
  return std::optional<Options>(std::move(options));
}

}  // namespace airlock::xfer
