#include "tools/airlock_xfer/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <iostream>
#include <sstream>

#include "base/version.h"
#include "tools/airlock_xfer/plan.h"

namespace airlock::xfer {
namespace {

constexpr std::int64_t kMinTimeoutMs = 100;
constexpr std::int64_t kMaxTimeoutMs = 3'600'000;

/// What CLI11 fills in, before it is checked.
struct Raw {
  std::string paths = "ring,zmq,auto";
  std::string min_bytes = "64";
  std::string max_bytes = "128M";
  std::string step_bytes;
  std::string slot_bytes;
  std::string cpus;
  double factor = 2;
  int check = 1;
  std::string mode = "echo";
  std::string zmq = "ipc";
  std::string form = "md";
  bool json = false;
  std::int64_t timeout_ms = 10000;
};

std::string check_seconds(const std::string& text) {
  char* end = nullptr;
  const double seconds = std::strtod(text.c_str(), &end);
  if (*end == '\0' && seconds >= 0.001 && seconds <= 600) return {};  // false for NaN
  return "'" + text + "' is not a number of seconds from 0.001 to 600";
}

void declare(CLI::App& app, Options& options, Raw& raw) {
  app.add_option("--path", raw.paths,
                 "paths to measure, with commas: ring (sizes that it cannot carry are n/a), zmq "
                 "(no ring), auto (what the runtime takes for the size)");
  app.add_option("-b,--min-bytes", raw.min_bytes, "smallest size (64; suffixes K, M, G: 1024^n)");
  app.add_option("-e,--max-bytes", raw.max_bytes, "largest size (128M; at most 4G)");
  auto* factor = app.add_option("-f,--factor", raw.factor, "each size is this times the last (2)");
  app.add_option("-i,--step", raw.step_bytes, "each size is this many bytes more than the last")
      ->excludes(factor);
  app.add_option("-n,--iterations", options.iterations, "timed iterations a row (100)")
      ->check(CLI::Range(std::uint64_t{1}, kMaxIterations));
  app.add_option("-w,--warmup", options.warmup, "iterations before, not counted (10)")
      ->check(CLI::Range(std::uint64_t{0}, kMaxIterations));
  app.add_option("-c,--check", raw.check,
                 "1: check every byte of every message, outside the timed part; 0: do not (1)")
      ->check(CLI::Range(0, 1));
  app.add_option("--mode", raw.mode,
                 "echo: round trips of a tensor; stream: one way, several under way, "
                 "acknowledged by small replies (echo)")
      ->check(CLI::IsMember({"echo", "stream"}));
  app.add_option("--inflight", options.inflight, "messages under way at most in stream mode (4)")
      ->check(CLI::Range(std::size_t{1}, kMaxInflight));
  app.add_option("--ring-slots", options.geometry.slot_count, "slots of each ring (8)")
      ->check(CLI::Range(static_cast<std::uint32_t>(limits::kMinSlotCount),
                         static_cast<std::uint32_t>(limits::kMaxSlotCount)));
  app.add_option("--ring-slot-bytes", raw.slot_bytes,
                 "payload bytes of a slot, also the path limit (10485760; suffixes as for -b)");
  app.add_option("--zmq", raw.zmq, "data sockets over ipc (Unix sockets) or tcp (loopback) (ipc)")
      ->check(CLI::IsMember({"ipc", "tcp"}));
  app.add_option("--cpus", raw.cpus,
                 "A,B: keep this process's main thread on CPU A and the peer's on CPU B (else the "
                 "system may put both on one; the summary says where it did)");
  app.add_option("--max-seconds", options.max_seconds,
                 "a row ends after this time, though not before 3 iterations (2)")
      ->check(check_seconds);
  app.add_option("--timeout-ms", raw.timeout_ms,
                 "longest wait for the peer; one second more for each 64 MiB of a message (10000)")
      ->check(CLI::Range(kMinTimeoutMs, kMaxTimeoutMs));
  auto* form = app.add_option("-o,--output", raw.form, "md, csv or json (md)")
                   ->check(CLI::IsMember({"md", "csv", "json"}));
  app.add_flag("--json", raw.json, "the same as -o json")->excludes(form);
  app.set_version_flag("--version", fmt::format("airlock_xfer {}", kVersion));
}

Status parse_paths(const std::string& text, std::vector<PathAsked>& paths) {
  paths.clear();
  std::stringstream words(text + ",");
  for (std::string word; std::getline(words, word, ',');) {
    const auto all = {PathAsked::kRing, PathAsked::kZmq, PathAsked::kAuto};
    const auto* const found =
        std::ranges::find_if(all, [&word](PathAsked path) { return path_name(path) == word; });
    if (found == all.end()) {
      return {StatusCode::kUsage, fmt::format("--path: '{}' is neither ring, zmq nor auto", word)};
    }
    if (std::ranges::find(paths, *found) != paths.end()) {
      return {StatusCode::kUsage, fmt::format("--path: '{}' is there twice", word)};
    }
    paths.push_back(*found);
  }
  return {};
}

Result<std::size_t> size_of(std::string_view option, const std::string& text) {
  const auto bytes = parse_size(text);
  if (bytes.has_value()) return std::size_t{*bytes};
  return Status(StatusCode::kUsage,
                fmt::format("{} '{}' is no size: give bytes, or 4K, 128M, 1G", option, text));
}

Status parse_slot_bytes(const std::string& text, Options& options) {
  if (text.empty()) return {};
  ASSIGN_OR_RETURN(const std::size_t bytes, size_of("--ring-slot-bytes", text));
  if (bytes < limits::kMinSlotBytes || bytes > limits::kMaxSlotBytes || bytes % 4096 != 0) {
    return {StatusCode::kUsage,
            fmt::format("--ring-slot-bytes '{}' is not a multiple of 4096 from {} to {}", text,
                        limits::kMinSlotBytes, limits::kMaxSlotBytes)};
  }
  options.geometry.slot_bytes = static_cast<std::uint32_t>(bytes);
  return {};
}

Status parse_sizes(const Raw& raw, Options& options) {
  SizeRange range;
  ASSIGN_OR_RETURN(range.min_bytes, size_of("-b", raw.min_bytes));
  ASSIGN_OR_RETURN(range.max_bytes, size_of("-e", raw.max_bytes));
  range.factor = raw.factor;
  range.limit_bytes = options.geometry.slot_bytes;
  if (!raw.step_bytes.empty()) {
    ASSIGN_OR_RETURN(range.step_bytes, size_of("-i", raw.step_bytes));
    if (range.step_bytes == 0) return {StatusCode::kUsage, "-i 0: the step must be at least 1"};
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

Status parse_cpus(const std::string& text, Options& options) {
  if (text.empty()) return {};
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
    return {StatusCode::kUsage, fmt::format("--cpus '{}' are not two CPU numbers, as 0,1", text)};
  }
  for (const int cpu : cpus) {
    if (may_use_cpu(cpu)) continue;
    return {StatusCode::kUsage, fmt::format("--cpus: this process may not use CPU {}", cpu)};
  }
  options.cpus = cpus;
  return {};
}

Status finish(const Raw& raw, Options& options) {
  RETURN_IF_ERROR(parse_paths(raw.paths, options.paths));
  RETURN_IF_ERROR(parse_slot_bytes(raw.slot_bytes, options));
  RETURN_IF_ERROR(parse_sizes(raw, options));
  RETURN_IF_ERROR(parse_cpus(raw.cpus, options));
  options.check = raw.check != 0;
  if (raw.mode == "stream") options.mode = Mode::kStream;
  if (raw.zmq == "tcp") options.zmq = ZmqTransport::kTcp;
  options.form = raw.json ? OutputForm::kJson : *from_name<OutputForm>(raw.form);
  options.timeout = std::chrono::milliseconds(raw.timeout_ms);
  return {};
}

}  // namespace

std::string_view path_name(PathAsked path) {
  switch (path) {
    case PathAsked::kRing:
      return "ring";
    case PathAsked::kZmq:
      return "zmq";
    case PathAsked::kAuto:
      return "auto";
  }
  return "";
}

Result<std::optional<Options>> parse_options(int argc, const char* const* argv) {
  Options options;
  Raw raw;
  CLI::App app{
      "Measures Airlock's channels between two processes: it forks its own peer.\n"
      "One row for each size and path, on stdout. Exit codes: 0 done, 2 usage, 3 the peer died or\n"
      "stalled, 4 wrong bytes, 5 no room in memory or /dev/shm."};
  declare(app, options, raw);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error, std::cout, std::cerr);
      return std::optional<Options>();
    }
    return Status(StatusCode::kUsage, std::string(error.what()) + " (see airlock_xfer --help)");
  }
  if (Status status = finish(raw, options); !status.ok()) {
    return Status(status.code(), status.message() + " (see airlock_xfer --help)");
  }
  for (int i = 0; i < argc; ++i) options.command += (i == 0 ? "" : " ") + std::string(argv[i]);
  return std::optional<Options>(std::move(options));
}

}  // namespace airlock::xfer
