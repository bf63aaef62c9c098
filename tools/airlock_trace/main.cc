#include <array>
#include <string>
#include <vector>

#include "base/output_file.h"
#include "runtime/program/program.h"
#include "tools/airlock_trace/diff.h"
#include "tools/airlock_trace/export.h"
#include "tools/airlock_trace/import.h"
#include "tools/airlock_trace/options.h"
#include "tools/airlock_trace/show.h"
#include "tools/airlock_trace/synth.h"

namespace airlock::trace {
namespace {

/// Where synth, import and export write to.
Result<OutputFile> open_output(const Options& options) {
  if (options.output == "-") return OutputFile::open_stdout();
  std::vector<NamedFile> inputs = {{"--config", options.config}};
  for (const std::string& input : options.inputs) inputs.push_back({"the input", input});
  RETURN_IF_ERROR(check_apart(std::array{NamedFile{"-o", options.output}}, inputs));
  return OutputFile::open(options.output);
}

Status write_file(const Options& options) {
  ASSIGN_OR_RETURN(const OutputFile file, open_output(options));
  if (options.command == Command::kSynth) return synthesise(options, file);
  if (options.command == Command::kImport) return import_command(options, file);
  return export_trace(options.inputs[0], options.format, file);
}

/// Does what the command line asks for: results to stdout or the named file, notes and warnings to
/// the log. kInvalidInput for a bad file, kUsage where the output is an input, kResourceExhausted
/// where the disk is full.
Status run(const Options& options) {
  std::string text;
  switch (options.command) {
    case Command::kSynth:
    case Command::kImport:
    case Command::kExport:
      return write_file(options);
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
