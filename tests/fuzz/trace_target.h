#pragma once

#include <string_view>

#include "base/check.h"
#include "proto/limits.h"
#include "runtime/trace/trace_line.h"

namespace airlock {

/// Gives any text to the decoders of a trace's lines. What is accepted must come back the same from
/// its own encoding and lie within the limits; a broken promise ends the process. `header` is of
/// the trace that `line` would be a record of.
inline void decode_any_trace_line(std::string_view line, const TraceHeader& header) {
  if (const auto read = decode_trace_header(line, "fuzz"); read.ok()) {
    CHECK(read->dims.check().ok());
    CHECK(read->payload.find('/') == std::string::npos);
    const auto again = decode_trace_header(encode_trace_line(*read), "fuzz");
    CHECK(again.ok() && again.value() == *read);
  }
  if (const auto read = decode_trace_record(line, header, "fuzz"); read.ok()) {
    CHECK(op_results(read->spec(), header.dims).ok());
    for (const auto* tensors : {&read->inputs, &read->outputs}) {
      CHECK(tensors->size() <= limits::kMaxTensorsPerMessage);
      for (const TraceTensor& tensor : *tensors)
        CHECK(tensor.desc.bytes() <= limits::kMaxTensorBytes);
    }
    CHECK(read->times.total_ns ==
          read->times.tee_ns + read->times.wire_ns + read->times.queue_ns + read->times.server_ns);
    const auto again = decode_trace_record(encode_trace_line(*read), header, "fuzz");
    CHECK(again.ok() && again.value() == *read);
  }
}

}  // namespace airlock
