#include "tools/airlock_report/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "base/version.h"
#include "tools/airlock_report/input.h"

namespace airlock::report {

Result<std::optional<Options>> parse_options(int argc, const char* const* argv) {
  Options options;
  CLI::App app{
      "Makes one self-contained HTML page from statistics and traces: time by op and by side,\n"
      "latency per path, bytes over time, the ring's fill, the biggest ops, and whether runner "
      "and\n"
      "server agree. It loads nothing from anywhere. Exit codes: 0 done, 1 a bad file, 2 usage,\n"
      "5 the disk is full."};
  app.add_option("files", options.inputs,
                 fmt::format("what --stats-json and --record wrote, in any order, told apart by "
                             "their content (at most {})",
                             kMaxInputs))
      ->required()
      ->type_name("FILE");
  app.add_option("-o,--output", options.output,
                 "the page, replaced atomically, mode 0600; - is stdout")
      ->required()
      ->type_name("FILE");
  app.set_version_flag("--version", fmt::format("airlock_report {}", kVersion));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error, std::cout, std::cerr);
      return std::optional<Options>();
    }
    return Status(StatusCode::kUsage, std::string(error.what()) + " (see airlock_report --help)");
  }
  if (options.inputs.size() > kMaxInputs) {
    return Status(StatusCode::kUsage, fmt::format("{} files, at most {} fit on a page",
                                                  options.inputs.size(), kMaxInputs));
  }
  if (options.output.empty()) return Status(StatusCode::kUsage, "-o needs a file name");
  return std::optional<Options>(std::move(options));
}

}  // namespace airlock::report
