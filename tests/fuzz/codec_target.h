#pragma once

#include <cstddef>
#include <span>

#include "base/check.h"
#include "proto/handshake.h"
#include "proto/limits.h"
#include "proto/message.h"

namespace airlock {

/// Gives any bytes to each decoder of proto/. What is accepted must come back the same from its own
/// encoding, and lie within the limits; a broken promise ends the process.
inline void decode_anything(std::span<const std::byte> bytes) {
  constexpr ModelDims kDims{.hidden = 64,
                            .intermediate = 128,
                            .layers = 2,
                            .heads = 4,
                            .kv_heads = 2,
                            .head_dim = 16,
                            .vocab = 100};
  if (const auto request = decode_request(bytes); request.ok()) {
    CHECK(decode_request(encode(*request)).value() == *request);
    for (const TensorDesc& input : request->spec.inputs)
      CHECK(input.bytes() <= limits::kMaxTensorBytes);
    if (const auto results = op_results(request->spec, kDims); results.ok()) {
      CHECK(results->size() <= limits::kMaxTensorsPerMessage);
      for (const TensorDesc& result : *results) CHECK(result.bytes() <= limits::kMaxTensorBytes);
    }
  }
  if (const auto response = decode_response(bytes); response.ok()) {
    CHECK(decode_response(encode(*response)).value() == *response);
    for (const TensorDesc& result : response->results)
      CHECK(result.bytes() <= limits::kMaxTensorBytes);
  }
  if (const auto control = decode_control(bytes); control.ok()) {
    CHECK(decode_control(encode_control(*control)).value() == *control);
    if (const auto* welcome = std::get_if<Welcome>(&*control)) {
      CHECK(check_geometry(welcome->geometry).ok() && welcome->dims.check().ok());
    }
  }
}

}  // namespace airlock
