#include "tools/airlock_trace/run.h"

#include "runtime/program/program.h"
#include "tools/airlock_trace/diff.h"
#include "tools/airlock_trace/export.h"
#include "tools/airlock_trace/import.h"
#include "tools/airlock_trace/output.h"
#include "tools/airlock_trace/show.h"
#include "tools/airlock_trace/synth.h"

namespace airlock::trace {
Status run(const Options& options) {
  if (!options.output.empty()) {
    RETURN_IF_ERROR(check_not_an_input(options.output, options.inputs));
    RETURN_IF_ERROR(check_not_an_input(options.output, {options.config}));
  }
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
