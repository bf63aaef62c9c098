#include "tools/airlock_trace/run.h"

#include "base/file.h"
#include "runtime/program/program.h"
#include "tools/airlock_trace/diff.h"
#include "tools/airlock_trace/export.h"
#include "tools/airlock_trace/import.h"
#include "tools/airlock_trace/show.h"
#include "tools/airlock_trace/synth.h"

namespace airlock::trace {
namespace {

/// kUsage where the output is a file that is read.
Status check_spared(const Options& options, const std::string& input) {
  if (options.output.empty() || options.output == "-" || !is_same_file(options.output, input))
    return {};
  return {StatusCode::kUsage, "-o " + options.output + " is the file that is read"};
}

}  // namespace

Status run(const Options& options) {
  for (const std::string& input : options.inputs) RETURN_IF_ERROR(check_spared(options, input));
  RETURN_IF_ERROR(check_spared(options, options.config));
  switch (options.command) {
    case Command::kSynth:
      return synthesise(options);
    case Command::kImport:
      return import_command(options);
    case Command::kShow: {
      ASSIGN_OR_RETURN(const std::string text, show(options.inputs, options.form));
      return print(text);
    }
    case Command::kDiff: {
      ASSIGN_OR_RETURN(const std::string text,
                       diff(options.inputs[0], options.inputs[1], options.form));
      return print(text);
    }
    case Command::kExport:
      return export_trace(options.inputs[0], options.format, options.output);
  }
  return {};
}

}  // namespace airlock::trace
