#include "tools/airlock_stat/options.h"

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>

#include "base/version.h"
#include "runtime/rpc/endpoint.h"

namespace airlock {
namespace {

/// Of --watch: empty is one second.
Result<std::chrono::nanoseconds> parse_interval(const std::string& text) {
  if (text.empty()) return std::chrono::nanoseconds(std::chrono::seconds(1));
  char* end = nullptr;
  const double seconds = std::strtod(text.c_str(), &end);
  if (*end == '\0' && seconds >= 0.01 && seconds <= 86400.0)  // false for NaN
    return std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
  return Status(StatusCode::kUsage,
                "--watch '" + text + "' is not a number of seconds from 0.01 to 86400");
}

}  // namespace

Result<std::optional<StatOptions>> parse_stat_options(int argc, const char* const* argv) {
  StatOptions options;
  std::string format = "md";
  std::string watch;
  CLI::App app{
      "What a gpu_server has counted so far, without disturbing it: read from the file in which it "
      "counts (docs/STATS.md), also when it hangs. A server on another machine is asked, and tells "
      "of the asking session only."};
  app.set_version_flag("--version", std::string("airlock_stat ") + kVersion);
  app.add_option("--endpoint", options.endpoint,
                 "of the server: ipc:///path or tcp://host:port (default "
                 "$XDG_RUNTIME_DIR/airlock/ctl, else /tmp/airlock-UID/ctl)");
  auto* watching =
      app.add_option("--watch", watch,
                     "look again every so many seconds (1) until SIGINT or the server's end; "
                     "redraws on a terminal, else appends")
          ->expected(0, 1);
  app.add_option("-o", format, "md: tables, json: one line")->check(CLI::IsMember({"md", "json"}));
  std::int64_t timeout_ms = options.timeout.count();
  app.add_option("--timeout-ms", timeout_ms,
                 "how long to wait for a server on another machine (5000)")
      ->check(CLI::Range(1, 3'600'000));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error, std::cout, std::cerr);
      return std::optional<StatOptions>();
    }
    return Status(StatusCode::kUsage, std::string(error.what()) + " (see airlock_stat --help)");
  }
  if (watching->count() > 0) {
    ASSIGN_OR_RETURN(options.watch, parse_interval(watch));
  }
  if (options.endpoint.empty()) options.endpoint = default_endpoint().text();
  RETURN_IF_ERROR(parse_endpoint(options.endpoint).status());
  options.form = *from_name<OutputForm>(format);
  options.timeout = std::chrono::milliseconds(timeout_ms);
  return std::optional<StatOptions>(options);
}

}  // namespace airlock
