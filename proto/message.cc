#include "proto/message.h"

#include "proto/limits.h"
#include "proto/wire.h"

namespace airlock {
namespace {

// The fields of each header in the order of the wire. `wire` is a WireWriter and the header const,
// or `wire` is a WireReader.

void tensor_list(auto& wire, std::string_view what, auto& tensors) {
  std::uint64_t total_bytes = 0;
  wire.list(what, tensors, limits::kMaxTensorsPerMessage, [&](auto& tensor) {
    wire.tensor(what, tensor);
    total_bytes += tensor.bytes();
  });
  wire.demand(total_bytes <= limits::kMaxMessageBytes,
              "{} has {} bytes in all, expected at most {}", what, total_bytes,
              limits::kMaxMessageBytes);
}

void request_fields(auto& wire, auto& header) {
  auto& spec = header.spec;
  wire.body("the header", 8);
  wire.number("the request id", header.request_id);
  wire.enumerator("the op", spec.op);
  wire.enumerator("the result dtype", spec.result_dtype);
  wire.enumerator("the transposition", spec.transpose);
  wire.list("the weights", spec.weights, limits::kMaxWeightsPerOp, [&wire](auto& weight) {
    wire.array("a weight", 2);
    wire.enumerator("a weight's kind", weight.kind);
    wire.number("a weight's layer", weight.layer);
  });
  wire.number("the planes", spec.planes, 0, kMaxInt8Planes);
  tensor_list(wire, "the inputs", spec.inputs);
  wire.list("the places", header.places, 2 * limits::kMaxTensorsPerMessage,
            [&wire](auto& place) { wire.number("a place", place.number); });
}

void response_fields(auto& wire, auto& header) {
  wire.body("the header", 7);
  wire.number("the request id", header.request_id);
  wire.enumerator("the op", header.op);
  wire.status_code(header.code, StatusCode::kOk);
  wire.text("the error text", header.message, limits::kMaxErrorTextBytes);
  tensor_list(wire, "the results", header.results);
  wire.number("the queue time", header.queue_ns);
  wire.number("the server time", header.server_ns);
  const bool is_ok = header.code == StatusCode::kOk;
  wire.demand(!is_ok || header.message.empty(), "an error text without an error");
  wire.demand(is_ok || header.results.empty(), "results beside an error");
}

std::vector<std::byte> finished(WireWriter writer) {
  std::vector<std::byte> bytes = std::move(writer).take();
  CHECK(bytes.size() <= limits::kMaxEncodedHeaderBytes);
  return bytes;
}

/// What reads and finishes a header, for `name`: fields(reader, header).
template <typename Header, typename Fields>
Result<Header> decode(std::string_view name, std::span<const std::byte> bytes, Fields fields) {
  if (bytes.size() > limits::kMaxEncodedHeaderBytes) {
    return Status(StatusCode::kProtocolError, "{}: {} bytes, expected at most {}", name,
                  bytes.size(), limits::kMaxEncodedHeaderBytes);
  }
  WireReader reader(bytes);
  Header header;
  fields(reader, header);
  if (const Status end = reader.finish(); !end.ok()) return end.with_context(name);
  return header;
}

}  // namespace

std::vector<std::byte> encode(const RequestHeader& header) {
  WireWriter writer;
  request_fields(writer, header);
  return finished(std::move(writer));
}

Result<RequestHeader> decode_request(std::span<const std::byte> bytes) {
  return decode<RequestHeader>("request header", bytes,
                               [](auto& reader, auto& header) { request_fields(reader, header); });
}

std::vector<std::byte> encode(const ResponseHeader& header) {
  CHECK(header.code == StatusCode::kOk ? header.message.empty() : header.results.empty());
  WireWriter writer;
  response_fields(writer, header);
  return finished(std::move(writer));
}

Result<ResponseHeader> decode_response(std::span<const std::byte> bytes) {
  return decode<ResponseHeader>("response header", bytes, [](auto& reader, auto& header) {
    response_fields(reader, header);
  });
}

}  // namespace airlock
