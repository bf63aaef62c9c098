#include "tools/airlock_stat/options.h"

#include <array>

#include "runtime/program/command_line.h"
#include "runtime/program/connection_options.h"
#include "runtime/rpc/endpoint.h"

namespace airlock {

Result<std::optional<StatOptions>> parse_stat_options(int argc, const char* const* argv) {
  StatOptions options;
  const CommandLine line(
      "airlock_stat",
      "What a gpu_server has counted so far, without disturbing it: read from the file in which it "
      "counts (docs/STATS.md), also when it hangs. A server on another machine is asked, and tells "
      "of the asking session only.");
  const CommandOptions command = line.options();
  declare_endpoint(command, options.endpoint);
  double watch_s = 1;
  const CommandOption watch = command
                                  .real("--watch", watch_s, 0.01, 86400,
                                        "look again every so many seconds (1) until SIGINT or the "
                                        "server's end; redraws on a terminal, else appends")
                                  .count(0, 1);
  static constexpr std::array kForms = {OutputForm::kMarkdown, OutputForm::kJson};
  command.choice<OutputForm>("-o", options.form, "md: tables, json: one line", kForms);
  std::int64_t timeout_ms = options.timeout.count();
  command.number("--timeout-ms", timeout_ms, std::int64_t{1}, std::int64_t{3'600'000},
                 "how long to wait for a server on another machine (5000)");
  declare_keys(command, options.keys.own, options.keys.server);
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  if (!asked) return std::optional<StatOptions>();
  if (watch.given()) {
    options.watch = std::chrono::nanoseconds(static_cast<std::int64_t>(watch_s * 1e9));
  }
  if (options.endpoint.empty()) options.endpoint = default_endpoint().text();
  RETURN_IF_ERROR(parse_endpoint(options.endpoint).status());
  options.timeout = std::chrono::milliseconds(timeout_ms);
  return std::optional<StatOptions>(options);
}

}  // namespace airlock
