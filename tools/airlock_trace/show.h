#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/json/writer.h"
#include "runtime/text/output_form.h"
#include "runtime/trace/summary.h"

namespace airlock::trace {

/// "bf16[32x1024x64]"; the shape of a scalar is "-".
std::string desc_text(const TensorDesc& desc);
/// "bf16[32x1024x64] bf16[8x1024x64] -> bf16[32x1024x1024]".
std::string shapes_text(const TraceRecord& record);
/// "0.q_proj".
std::string weight_text(const WeightId& weight);
/// "1 prefill", "2 prefills".
std::string prefills_text(std::uint64_t runs);

/// visit("ring", summaries.paths[Path::kRing]...) and so on for each path, then for what crossed
/// nothing, "none".
template <typename Visit, typename... Summaries>
void visit_paths(Visit&& visit, const Summaries&... summaries) {
  for (const Path path : kPaths) visit(name_of(path), summaries.paths[path]...);
  visit("none", summaries.uncrossed...);
}
/// Sent and received.
std::uint64_t tensors_of(const PathSnapshot& path);
/// docs/INTERFACE.md names the keys.
JsonObject summary_json(const TraceFileSummary& summary);

/// The summaries of `files`: md one after the other, json {"traces":[...]}, csv a row an op and
/// file. What is cut or missing is also warned of in the log.
Result<std::string> show(const std::vector<std::string>& files, OutputForm form);

}  // namespace airlock::trace
