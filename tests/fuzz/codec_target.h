#pragma once

#include <cstddef>
#include <span>
#include <variant>
#include <vector>

#include "base/check.h"
#include "proto/handshake.h"
#include "proto/limits.h"
#include "proto/message.h"

namespace airlock {

inline constexpr ModelDims kFuzzDims{.hidden = 64,
                                     .intermediate = 128,
                                     .layers = 2,
                                     .heads = 4,
                                     .kv_heads = 2,
                                     .head_dim = 16,
                                     .vocab = 100};

// Each gives any bytes to one decoder of proto/. What is accepted must come back the same from its
// own encoding, and lie within the limits; a broken promise ends the process.

inline Result<RequestHeader> decode_any_request(std::span<const std::byte> bytes) {
  auto request = decode_request(bytes);
  if (!request.ok()) return request;
  CHECK(decode_request(encode(*request)).value() == *request);
  for (const TensorDesc& input : request->spec.inputs)
    CHECK(input.bytes() <= limits::kMaxTensorBytes);
  if (const auto results = op_results(request->spec, kFuzzDims); results.ok()) {
    CHECK(results->size() <= limits::kMaxTensorsPerMessage);
    for (const TensorDesc& result : *results) CHECK(result.bytes() <= limits::kMaxTensorBytes);
  }
  return request;
}

inline Result<ResponseHeader> decode_any_response(std::span<const std::byte> bytes) {
  auto response = decode_response(bytes);
  if (!response.ok()) return response;
  CHECK(decode_response(encode(*response)).value() == *response);
  for (const TensorDesc& result : response->results)
    CHECK(result.bytes() <= limits::kMaxTensorBytes);
  return response;
}

inline Result<ControlMessage> decode_any_control(std::span<const std::byte> bytes) {
  auto control = decode_control(bytes);
  if (!control.ok()) return control;
  CHECK(decode_control(encode_control(*control)).value() == *control);
  if (const auto* welcome = std::get_if<Welcome>(&*control)) {
    CHECK(check_geometry(welcome->geometry).ok() &&
          (welcome->dims.is_none() || welcome->dims.check().ok()));
    CHECK(welcome->path_limit >= 1 && welcome->path_limit <= welcome->geometry.slot_bytes);
  }
  return control;
}

inline void decode_anything(std::span<const std::byte> bytes) {
  (void)decode_any_request(bytes);
  (void)decode_any_response(bytes);
  (void)decode_any_control(bytes);
}

/// One of each kind.
inline std::vector<RequestHeader> valid_requests() {
  const TensorDesc x{DType::kBF16, {3, 64}};
  const TensorDesc heads{DType::kF32, {4, 3, 16}};
  return {{1, embedding_spec(3, DType::kF16)},
          {2, linear_spec({{WeightKind::kQ, 0}, {WeightKind::kV, 1}}, x, DType::kBF16)},
          {3, matmul_spec(heads, heads, Transpose::kB, DType::kF32)},
          {4, lm_head_spec(x)},
          {5, OpSpec{}},
          {7, int_linear_spec({{WeightKind::kGate, 1}, {WeightKind::kUp, 1}}, 2, 3, kFuzzDims)},
          {8, pad_linear_spec({}, 1, 3)},
          {6, lm_head_spec(x), {PoolPlace::at(8192), PoolPlace()}}};
}

inline std::vector<ResponseHeader> valid_responses() {
  ResponseHeader answer;
  answer.results = {{DType::kBF16, {3, 64}}, {DType::kF32, {4, 3, 16}}};
  ResponseHeader failed;
  failed.code = StatusCode::kInvalidInput;
  failed.message = "no such layer";
  return {answer, failed};
}

inline std::vector<ControlMessage> valid_controls() {
  Welcome welcome;
  welcome.token = "0123456789abcdef0123456789abcdef";
  welcome.has_ring = true;
  welcome.geometry = {8, 10485760};
  welcome.path_limit = 10240;
  welcome.request_segment = "airlock-1-q";
  welcome.reply_segment = "airlock-1-p";
  welcome.dims = kFuzzDims;
  welcome.digest = "00ff";
  welcome.device = "cpu";
  Welcome products = welcome;
  products.dims = {};
  products.fp64_products = "BLIS 0.9.0";
  return {
      Hello{"fuzz", {RingChoice::kOn, 8, 4096}, "00ff", 0, {{1 << 20, 1 << 20, 0}}, 10240},
      Hello{"fuzz", {RingChoice::kOff}, "", 0, {}, 0, 0, Privacy::kOtpVerify, Int8Weights::kAuto},
      welcome,
      products,
      Refusal{StatusCode::kInUse, "busy"},
      Sign{},
      Goodbye{"done"},
      DataSocket{"ipc:///tmp/airlock/data"},
      Attached{},
      Attached{{}, "00ff"},
      Attached{{{PoolUse::kInput, 0, 8192}, {PoolUse::kOutput, 65536, 4096}}}};
}

}  // namespace airlock
