#pragma once

#include <string_view>

#include "base/check.h"
#include "proto/limits.h"
#include "runtime/trace/trace_line.h"

namespace airlock {

// Each gives any text to a decoder of a trace's lines, and returns why it was refused. What is
// accepted must come back the same from its own encoding and lie within the limits; a broken
// promise ends the process.

inline Status decode_any_trace_header(std::string_view line) {
  ASSIGN_OR_RETURN(const TraceHeader read, decode_trace_header(line, "fuzz"));
  CHECK(read.dims.check().ok());
  CHECK(read.payload.find('/') == std::string::npos);
  const auto again = decode_trace_header(encode_trace_line(read), "fuzz");
  CHECK(again.ok() && again.value() == read);
  return {};
}

/// `header` is of the trace that `line` would be a record of.
inline Status decode_any_trace_record(std::string_view line, const TraceHeader& header) {
  ASSIGN_OR_RETURN(const TraceRecord read, decode_trace_record(line, header, "fuzz"));
  CHECK(op_results(read.spec(), header.dims).ok());
  for (const auto* tensors : {&read.inputs, &read.outputs}) {
    CHECK(tensors->size() <= limits::kMaxTensorsPerMessage);
    for (const TraceTensor& tensor : *tensors)
      CHECK(tensor.desc.bytes() <= limits::kMaxTensorBytes);
  }
  CHECK(read.times.total_ns ==
        read.times.tee_ns + read.times.wire_ns + read.times.queue_ns + read.times.server_ns);
  const auto again = decode_trace_record(encode_trace_line(read), header, "fuzz");
  CHECK(again.ok() && again.value() == read);
  return {};
}

inline void decode_any_trace_line(std::string_view line, const TraceHeader& header) {
  (void)decode_any_trace_header(line);
  (void)decode_any_trace_record(line, header);
}

}  // namespace airlock
