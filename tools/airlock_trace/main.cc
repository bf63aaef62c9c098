#include <string>
#include <vector>

#include "base/file.h"
#include "runtime/program/program.h"
#include "tools/airlock_trace/diff.h"
#include "tools/airlock_trace/export.h"
#include "tools/airlock_trace/import.h"
#include "tools/airlock_trace/options.h"
#include "tools/airlock_trace/show.h"
#include "tools/airlock_trace/synth.h"

namespace airlock::trace {
namespace {

/// Does what the command line asks for: results to stdout or the named file, notes and warnings to
/// the log. kInvalidInput for a bad file, kUsage where the output is an input, kResourceExhausted
/// where the disk is full.
Status run(const Options& options) {
  const std::string& output = options.output;
  std::vector<std::string> inputs = options.inputs;
  inputs.push_back(options.config);
  for (const std::string& input : inputs) {
    if (!output.empty() && output != "-" && is_same_file(output, input))
      return {StatusCode::kUsage, "-o " + output + " is the file that is read"};
  }
  std::string text;
  switch (options.command) {
    case Command::kSynth:
      return synthesise(options);
    case Command::kImport:
      return import_command(options);
    case Command::kExport:
      return export_trace(options.inputs[0], options.format, options.output);
    case Command::kShow: {
      ASSIGN_OR_RETURN(text, show(options.inputs, options.form));
      break;
    }
    case Command::kDiff: {
      ASSIGN_OR_RETURN(text, diff(options.inputs[0], options.inputs[1], options.form));
      break;
    }
  }
  return print(text);
}

}  // namespace
}  // namespace airlock::trace

int main(int argc, char** argv) {
  using namespace airlock;
  return run_program(
      "airlock_trace", [&] { return trace::parse_options(argc, argv); }, trace::run);
}
