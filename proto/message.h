#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "proto/op.h"
#include "proto/pool.h"

namespace airlock {

/// Headers of requests and replies: msgpack arrays, drawn in docs/PROTOCOL.md. Tensor bytes never
/// pass through here.
struct RequestHeader {
  std::uint64_t request_id = 0;
  OpSpec spec;
  // One for each input and then for each result, where one of them is for the pool by its size;
  // else none.
  std::vector<PoolPlace> places{};
  bool operator==(const RequestHeader&) const = default;
};

struct ResponseHeader {
  std::uint64_t request_id = 0;
  Op op = Op::kPing;
  StatusCode code = StatusCode::kOk;
  // At most limits::kMaxErrorTextBytes; empty when ok.
  std::string message;
  // Empty unless ok.
  std::vector<TensorDesc> results;
  // The server's word: from receipt to the start of the computation, and the computation.
  std::uint64_t queue_ns = 0;
  std::uint64_t server_ns = 0;
  bool operator==(const ResponseHeader&) const = default;
};

/// At most limits::kMaxEncodedHeaderBytes. Encoding what we made ourselves cannot fail (CHECKed: an
/// error has no results, a success no message).
std::vector<std::byte> encode(const RequestHeader& header);
std::vector<std::byte> encode(const ResponseHeader& header);
/// kProtocolError for anything that is not exactly one header with known values and nothing behind
/// it.
Result<RequestHeader> decode_request(std::span<const std::byte> bytes);
Result<ResponseHeader> decode_response(std::span<const std::byte> bytes);

}  // namespace airlock
