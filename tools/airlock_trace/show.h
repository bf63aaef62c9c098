#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/json/writer.h"
#include "runtime/text/output_form.h"
#include "runtime/trace/summary.h"

namespace airlock::trace {

/// Sent and received.
std::uint64_t tensors_of(const PathSnapshot& path);
std::string show_markdown(const TraceFileSummary& summary);
/// docs/INTERFACE.md names the keys.
JsonObject summary_json(const TraceFileSummary& summary);

/// The summaries of `files`: md one after the other, json {"traces":[...]}, csv a row an op and
/// file. What is cut or missing is also warned of in the log.
Result<std::string> show(const std::vector<std::string>& files, OutputForm form);

}  // namespace airlock::trace
