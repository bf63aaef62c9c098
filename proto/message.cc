#include "proto/message.h"

#include <fmt/format.h>

#include "proto/limits.h"
#include "proto/wire.h"

namespace airlock {
namespace {

std::vector<std::byte> finished(WireWriter writer) {
  std::vector<std::byte> bytes = std::move(writer).take();
  CHECK(bytes.size() <= limits::kMaxEncodedHeaderBytes);
  return bytes;
}

void write_tensors(WireWriter& writer, const std::vector<TensorDesc>& tensors) {
  CHECK(tensors.size() <= limits::kMaxTensorsPerMessage);
  writer.array(tensors.size());
  for (const TensorDesc& desc : tensors) writer.tensor(desc);
}

std::vector<TensorDesc> read_tensors(WireReader& reader, std::string_view what) {
  const std::size_t count = reader.array(what, 0, limits::kMaxTensorsPerMessage);
  std::vector<TensorDesc> tensors;
  tensors.reserve(count);
  std::uint64_t total_bytes = 0;
  for (std::size_t i = 0; i < count; ++i) {
    tensors.push_back(reader.tensor(what));
    if (!reader.ok()) return {};
    total_bytes += tensors.back().bytes();
  }
  if (total_bytes > limits::kMaxMessageBytes) {
    reader.fail(fmt::format("{} has {} bytes in all, expected at most {}", what, total_bytes,
                            limits::kMaxMessageBytes));
  }
  return tensors;
}

Op read_op(WireReader& reader) {
  const std::uint64_t value = reader.number("the op", 0, UINT8_MAX);
  const auto op = from_number<Op>(value);
  if (!op) reader.fail(fmt::format("the op is {}, which is none", value));
  return op.value_or(Op::kPing);
}

Status check_size(std::size_t bytes) {
  if (bytes <= limits::kMaxEncodedHeaderBytes) return {};
  return {StatusCode::kProtocolError, "{} bytes, expected at most {}", bytes,
          limits::kMaxEncodedHeaderBytes};
}

}  // namespace

std::vector<std::byte> encode(const RequestHeader& header) {
  const OpSpec& spec = header.spec;
  CHECK(spec.weights.size() <= limits::kMaxWeightsPerOp);
  WireWriter writer;
  writer.array(6);
  writer.number(header.request_id);
  writer.number(static_cast<std::uint64_t>(spec.op));
  writer.number(static_cast<std::uint64_t>(spec.result_dtype));
  writer.number(static_cast<std::uint64_t>(spec.transpose));
  writer.array(spec.weights.size());
  for (const WeightId& weight : spec.weights) {
    writer.array(2);
    writer.number(static_cast<std::uint64_t>(weight.kind));
    writer.number(weight.layer);
  }
  write_tensors(writer, spec.inputs);
  return finished(std::move(writer));
}

Result<RequestHeader> decode_request(std::span<const std::byte> bytes) {
  if (Status size = check_size(bytes.size()); !size.ok())
    return size.with_context("request header");
  WireReader reader(bytes);
  RequestHeader header;
  reader.array("the header", 6, 6);
  header.request_id = reader.number("the request id", 0, UINT64_MAX);
  header.spec.op = read_op(reader);
  const auto dtype = from_number<DType>(reader.number("the result dtype", 0, UINT8_MAX));
  if (!dtype) reader.fail("the result dtype is unknown");
  header.spec.result_dtype = dtype.value_or(DType::kF32);
  header.spec.transpose = static_cast<Transpose>(reader.number("the transposition", 0, 2));
  const std::size_t weight_count = reader.array("the weights", 0, limits::kMaxWeightsPerOp);
  for (std::size_t i = 0; i < weight_count; ++i) {
    reader.array("a weight", 2, 2);
    const auto kind = static_cast<WeightKind>(reader.number("a weight's kind", 1, 7));
    const auto layer = static_cast<std::uint16_t>(reader.number("a weight's layer", 0, UINT16_MAX));
    header.spec.weights.push_back({kind, layer});
  }
  header.spec.inputs = read_tensors(reader, "the inputs");
  if (Status end = reader.finish(WireReader::Rest::kRefuse); !end.ok())
    return end.with_context("request header");
  return header;
}

std::vector<std::byte> encode(const ResponseHeader& header) {
  WireWriter writer;
  writer.array(7);
  writer.number(header.request_id);
  writer.number(static_cast<std::uint64_t>(header.op));
  writer.status_code(header.code);
  writer.text(header.code == StatusCode::kOk ? std::string_view() : header.message,
              limits::kMaxErrorTextBytes);
  write_tensors(writer,
                header.code == StatusCode::kOk ? header.results : std::vector<TensorDesc>());
  writer.number(header.queue_ns);
  writer.number(header.server_ns);
  return finished(std::move(writer));
}

Result<ResponseHeader> decode_response(std::span<const std::byte> bytes) {
  if (Status size = check_size(bytes.size()); !size.ok())
    return size.with_context("response header");
  WireReader reader(bytes);
  ResponseHeader header;
  reader.array("the header", 7, 7);
  header.request_id = reader.number("the request id", 0, UINT64_MAX);
  header.op = read_op(reader);
  header.code = reader.status_code(StatusCode::kOk);
  header.message = reader.text("the error text", limits::kMaxErrorTextBytes);
  header.results = read_tensors(reader, "the results");
  header.queue_ns = reader.number("the queue time", 0, UINT64_MAX);
  header.server_ns = reader.number("the server time", 0, UINT64_MAX);
  if (header.code == StatusCode::kOk && !header.message.empty())
    reader.fail("an error text without an error");
  if (header.code != StatusCode::kOk && !header.results.empty())
    reader.fail("results beside an error");
  if (Status end = reader.finish(WireReader::Rest::kRefuse); !end.ok())
    return end.with_context("response header");
  return header;
}

}  // namespace airlock
