#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "tools/airlock_trace/options.h"
#include "tools/airlock_trace/summary.h"

namespace airlock::trace {

std::string show_markdown(const TraceSummary& summary);
/// One JSON object of a summary, in one line, without a newline; docs/INTERFACE.md names the keys.
std::string summary_json(const TraceSummary& summary);

/// The summaries of `files`: md one after the other, json {"traces":[...]}, csv a row an op and
/// file. What is cut or missing is also warned of in the log.
Result<std::string> show(const std::vector<std::string>& files, OutputForm form);

}  // namespace airlock::trace
