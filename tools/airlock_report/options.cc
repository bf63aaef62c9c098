#include "tools/airlock_report/options.h"

#include <fmt/format.h>

#include "runtime/program/command_line.h"
#include "tools/airlock_report/input.h"

namespace airlock::report {

Result<std::optional<Options>> parse_options(int argc, const char* const* argv) {
  Options options;
  const CommandLine line(
      "airlock_report",
      "Makes one self-contained HTML page from statistics and traces: time by op and by side,\n"
      "latency per path, bytes over time, the ring's fill, the biggest ops, and whether runner "
      "and\n"
      "server agree. It loads nothing from anywhere. Exit codes: 0 done, 1 a bad file, 2 usage,\n"
      "5 the disk is full.");
  const CommandOptions command = line.options();
  (void)command
      .texts("files", options.inputs,
             fmt::format("what --stats-json and --record wrote, in any order, told apart by their "
                         "content (at most {})",
                         kMaxInputs))
      .required();
  (void)command
      .text("-o,--output", options.output, "the page, replaced atomically, mode 0600; - is stdout")
      .required();
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  if (!asked) return std::optional<Options>();
  if (options.inputs.size() > kMaxInputs) {
    return Status(StatusCode::kUsage, "{} files, at most {} fit on a page", options.inputs.size(),
                  kMaxInputs);
  }
  if (options.output.empty()) return Status(StatusCode::kUsage, "-o needs a file name");
  return std::optional<Options>(std::move(options));
}

}  // namespace airlock::report
