#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "runtime/json/writer.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// One line of a trace as JSON, without the newline. docs/TRACE_FORMAT.md says what each key means.
std::string encode_trace_line(const TraceHeader& header);
std::string encode_trace_line(const TraceRecord& record);
/// A record's line, to be added to.
JsonObject record_object(const TraceRecord& record);
/// A model's shape under the keys of its config.json.
JsonObject dims_object(const ModelDims& dims);

/// Reads a line back. A trace is untrusted: kInvalidInput, beginning with `source`, for anything
/// that is not exactly such a line, with the key and the value. Unknown keys are ignored, so that a
/// later minor version can be read.
Result<TraceHeader> decode_trace_header(std::string_view line, std::string_view source);
/// Also checks the record against the model of `header`: shapes, weights, results.
Result<TraceRecord> decode_trace_record(std::string_view line, const TraceHeader& header,
                                        std::string_view source);

/// Whether a header's `payload` can be `name`: a plain file name of UTF-8 beside the trace, without
/// a dot at its beginning.
bool is_payload_name(std::string_view name);

}  // namespace airlock
