#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/log.h"
#include "base/output_file.h"
#include "runtime/program/command_line.h"
#include "runtime/program/program.h"
#include "tools/airlock_report/input.h"
#include "tools/airlock_report/page.h"

namespace airlock::report {
namespace {

constexpr std::size_t kMaxInputs = 32;

struct Options {
  std::vector<std::string> inputs;  // at least one
  std::string output;               // "-": stdout
};

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
      .file("-o,--output", options.output, "the page, replaced atomically, mode 0600; - is stdout")
      .required();
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  if (!asked) return std::optional<Options>();
  if (options.inputs.size() > kMaxInputs) {
    return Status(StatusCode::kUsage, "{} files, at most {} fit on a page", options.inputs.size(),
                  kMaxInputs);
  }
  return std::optional<Options>(std::move(options));
}

/// A file counted twice would make merged histograms wrong.
Status check_inputs(const std::vector<std::string>& files) {
  for (auto file = files.begin(); file != files.end(); ++file) {
    const auto is_this = [&](const std::string& other) { return is_same_file(*file, other); };
    if (std::any_of(files.begin(), file, is_this))
      return {StatusCode::kUsage, "{} is given twice", *file};
  }
  return {};
}

Result<OutputFile> open_output(const Options& options) {
  if (options.output == "-") return OutputFile::open_stdout();
  std::vector<NamedFile> inputs;
  for (const std::string& input : options.inputs) inputs.push_back({"an input", input});
  RETURN_IF_ERROR(check_apart(std::array{NamedFile{"-o", options.output}}, inputs));
  return OutputFile::open(options.output);
}

/// Warnings about cut traces go to the log. kUsage where the output is one of the inputs or an
/// input is given twice; kInvalidInput for a bad file; kResourceExhausted where the disk is full.
Status run(const Options& options) {
  RETURN_IF_ERROR(check_inputs(options.inputs));
  ASSIGN_OR_RETURN(const OutputFile output, open_output(options));
  ASSIGN_OR_RETURN(const std::vector<Input> inputs, read_inputs(options.inputs));
  for (const Input& input : inputs) {
    if (input.trace() != nullptr && !input.trace()->cut.empty()) log_warning(input.trace()->cut);
  }
  const std::string page = render_page(inputs, {build_name(), utc_now()});
  RETURN_IF_ERROR(output.write(page));
  log_info(fmt::format("{}: {} bytes from {} files", output.path(), page.size(), inputs.size()));
  return {};
}

}  // namespace
}  // namespace airlock::report

int main(int argc, char** argv) {
  using namespace airlock;
  return run_program(
      "airlock_report", [&] { return report::parse_options(argc, argv); }, report::run);
}
