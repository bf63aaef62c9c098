#include "proto/handshake.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "proto/limits.h"
#include "proto/wire.h"

namespace airlock {
namespace {

constexpr std::array<char, 8> kMagic = {'A', 'I', 'R', 'L', 'O', 'C', 'K', '\0'};
constexpr std::size_t kVersionAt = kMagic.size();
constexpr std::size_t kKindAt = kVersionAt + 4;
constexpr std::size_t kBodyAt = kKindAt + 1;

// The index of a ControlMessage's alternative plus one is its kind on the wire.
enum class Kind : std::uint8_t { kHello = 1, kWelcome = 2, kRefusal = 3, kSign = 4, kGoodbye = 5 };

constexpr std::size_t kHelloElements = 6;
constexpr std::size_t kWelcomeElements = 16;
constexpr std::size_t kDimsElements = 7;

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

/// No '/' and no "..": the name is opened below /dev/shm.
bool is_segment_name(std::string_view text) {
  return text.starts_with("airlock-") && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == '-';
         });
}

void demand(WireReader& reader, const Status& status) {
  if (!status.ok()) reader.fail(status.message());
}

void write_body(WireWriter& writer, const Hello& hello) {
  writer.array(kHelloElements);
  writer.text(hello.client, limits::kMaxClientNameBytes);
  writer.number(static_cast<std::uint64_t>(hello.ring.choice));
  writer.number(hello.ring.slot_count);
  writer.number(hello.ring.slot_bytes);
  writer.text(hello.digest, limits::kMaxDigestBytes);
  writer.number(hello.capabilities);
}

void write_body(WireWriter& writer, const Welcome& welcome) {
  writer.array(kWelcomeElements);
  writer.number(welcome.epoch);
  writer.text(welcome.token, limits::kSessionTokenBytes);
  writer.text(welcome.data_endpoint, limits::kMaxDataEndpointBytes);
  writer.number(welcome.has_ring ? 1 : 0);
  writer.number(welcome.geometry.slot_count);
  writer.number(welcome.geometry.slot_bytes);
  writer.text(welcome.request_segment, limits::kMaxSegmentNameBytes);
  writer.text(welcome.reply_segment, limits::kMaxSegmentNameBytes);
  writer.array(kDimsElements);
  const ModelDims& dims = welcome.dims;
  for (std::int64_t value : {dims.hidden, dims.intermediate, dims.layers, dims.heads, dims.kv_heads,
                             dims.head_dim, dims.vocab}) {
    writer.number(static_cast<std::uint64_t>(value));
  }
  writer.text(welcome.digest, limits::kMaxDigestBytes);
  writer.number(static_cast<std::uint64_t>(welcome.dtype));
  writer.number(static_cast<std::uint64_t>(welcome.stored_dtype));
  writer.number(welcome.threads);
  writer.text(welcome.device, limits::kMaxDeviceNameBytes);
  writer.number(welcome.config_bytes);
  writer.number(welcome.capabilities);
}

void write_body(WireWriter& writer, const Refusal& refusal) {
  writer.array(2);
  writer.status_code(refusal.code);
  writer.text(refusal.message, limits::kMaxErrorTextBytes);
}

void write_body(WireWriter& writer, const Sign&) { writer.array(0); }

void write_body(WireWriter& writer, const Goodbye& goodbye) {
  writer.array(1);
  writer.text(goodbye.reason, limits::kMaxErrorTextBytes);
}

DType read_float_dtype(WireReader& reader, std::string_view what) {
  const auto dtype = from_number<DType>(reader.number(what, 0, UINT8_MAX));
  if (dtype && is_float(*dtype)) return *dtype;
  reader.fail(fmt::format("{} is not a float type", what));
  return DType::kF32;
}

std::string read_digest(WireReader& reader) {
  const std::string_view digest = reader.text("the digest", limits::kMaxDigestBytes);
  if (!is_hex(digest)) reader.fail("the digest is not in hex digits");
  return std::string(digest);
}

Hello read_hello(WireReader& reader, std::size_t most) {
  Hello hello;
  reader.array("hello", kHelloElements, most);
  hello.client = reader.text("the client's name", limits::kMaxClientNameBytes);
  hello.ring.choice = static_cast<RingChoice>(reader.number("the ring mode", 0, 1));
  hello.ring.slot_count =
      static_cast<std::uint32_t>(reader.number("the slot count", 0, limits::kMaxSlotCount));
  hello.ring.slot_bytes =
      static_cast<std::uint32_t>(reader.number("the slot bytes", 0, limits::kMaxSlotBytes));
  demand(reader, check_wish(hello.ring));
  hello.digest = read_digest(reader);
  hello.capabilities = reader.number("the capabilities", 0, UINT64_MAX);
  return hello;
}

ModelDims read_dims(WireReader& reader) {
  ModelDims dims;
  reader.array("the model's dimensions", kDimsElements, kDimsElements);
  for (std::int64_t* field : {&dims.hidden, &dims.intermediate, &dims.layers, &dims.heads,
                              &dims.kv_heads, &dims.head_dim, &dims.vocab}) {
    *field = static_cast<std::int64_t>(reader.number("a dimension of the model", 1, INT32_MAX));
  }
  if (reader.ok()) demand(reader, dims.check());
  return dims;
}

std::string read_segment(WireReader& reader, std::string_view what, bool has_ring) {
  const std::string_view name = reader.text(what, limits::kMaxSegmentNameBytes);
  if (!has_ring && !name.empty()) reader.fail(fmt::format("{} without a ring", what));
  if (has_ring && !is_segment_name(name)) {
    reader.fail(fmt::format("{} \"{}\" is not \"airlock-\" and [0-9a-z-]", what, name));
  }
  return std::string(name);
}

Welcome read_welcome(WireReader& reader, std::size_t most) {
  Welcome welcome;
  reader.array("welcome", kWelcomeElements, most);
  welcome.epoch = reader.number("the epoch", 0, UINT64_MAX);
  welcome.token = reader.text("the token", limits::kSessionTokenBytes);
  if (welcome.token.size() != limits::kSessionTokenBytes || !is_hex(welcome.token)) {
    reader.fail(fmt::format("the token is not {} hex digits", limits::kSessionTokenBytes));
  }
  welcome.data_endpoint = reader.text("the data endpoint", limits::kMaxDataEndpointBytes);
  if (!welcome.data_endpoint.starts_with("ipc://") &&
      !welcome.data_endpoint.starts_with("tcp://")) {
    reader.fail(fmt::format("the data endpoint \"{}\" is neither ipc:// nor tcp://",
                            welcome.data_endpoint));
  }
  welcome.has_ring = reader.number("the ring mode", 0, 1) == 1;
  welcome.geometry.slot_count =
      static_cast<std::uint32_t>(reader.number("the slot count", 0, UINT32_MAX));
  welcome.geometry.slot_bytes =
      static_cast<std::uint32_t>(reader.number("the slot bytes", 0, UINT32_MAX));
  if (reader.ok()) demand(reader, check_geometry(welcome.geometry));
  welcome.request_segment = read_segment(reader, "the request segment", welcome.has_ring);
  welcome.reply_segment = read_segment(reader, "the reply segment", welcome.has_ring);
  if (welcome.has_ring && welcome.request_segment == welcome.reply_segment) {
    reader.fail("one segment for both rings");
  }
  welcome.dims = read_dims(reader);
  welcome.digest = read_digest(reader);
  welcome.dtype = read_float_dtype(reader, "the weights' dtype");
  welcome.stored_dtype = read_float_dtype(reader, "the stored dtype");
  welcome.threads =
      static_cast<std::uint32_t>(reader.number("the thread count", 1, limits::kMaxThreads));
  welcome.device = reader.text("the device's name", limits::kMaxDeviceNameBytes);
  welcome.config_bytes =
      static_cast<std::uint32_t>(reader.number("the config's size", 0, limits::kMaxConfigBytes));
  welcome.capabilities = reader.number("the capabilities", 0, UINT64_MAX);
  return welcome;
}

Refusal read_refusal(WireReader& reader, std::size_t most) {
  reader.array("refusal", 2, most);
  const StatusCode code = reader.status_code(StatusCode::kUsage);
  return {code, std::string(reader.text("the reason", limits::kMaxErrorTextBytes))};
}

Goodbye read_goodbye(WireReader& reader, std::size_t most) {
  reader.array("goodbye", 1, most);
  return {std::string(reader.text("the reason", limits::kMaxErrorTextBytes))};
}

std::uint16_t u16_at(std::span<const std::byte> bytes, std::size_t at) {
  return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[at]) |
                                    (std::to_integer<unsigned>(bytes[at + 1]) << 8U));
}

ControlMessage read_body(WireReader& reader, Kind kind, std::size_t most_extra) {
  const auto most = [most_extra](std::size_t elements) { return elements + most_extra; };
  switch (kind) {
    case Kind::kHello:
      return read_hello(reader, most(kHelloElements));
    case Kind::kWelcome:
      return read_welcome(reader, most(kWelcomeElements));
    case Kind::kRefusal:
      return read_refusal(reader, most(2));
    case Kind::kGoodbye:
      return read_goodbye(reader, most(1));
    case Kind::kSign:
      break;
  }
  reader.array("sign", 0, most(0));
  return Sign{};
}

}  // namespace

std::vector<std::byte> encode_control(const ControlMessage& message) {
  std::array<std::byte, kBodyAt> head{};
  std::memcpy(head.data(), kMagic.data(), kMagic.size());
  head[kVersionAt] = static_cast<std::byte>(kProtocolMajor & 0xffU);
  head[kVersionAt + 1] = static_cast<std::byte>(kProtocolMajor >> 8U);
  head[kVersionAt + 2] = static_cast<std::byte>(kProtocolMinor & 0xffU);
  head[kVersionAt + 3] = static_cast<std::byte>(kProtocolMinor >> 8U);
  head[kKindAt] = static_cast<std::byte>(message.index() + 1);
  WireWriter writer(head);
  std::visit([&writer](const auto& body) { write_body(writer, body); }, message);
  std::vector<std::byte> bytes = std::move(writer).take();
  CHECK(bytes.size() <= limits::kMaxControlFrameBytes);
  return bytes;
}

Result<ControlMessage> decode_control(std::span<const std::byte> bytes) {
  const auto wrong = [](std::string text) {
    return Status(StatusCode::kProtocolError, "control message: " + std::move(text));
  };
  if (bytes.size() > limits::kMaxControlFrameBytes) {
    return wrong(
        fmt::format("{} bytes, expected at most {}", bytes.size(), limits::kMaxControlFrameBytes));
  }
  if (bytes.size() < kKindAt)
    return wrong(fmt::format("{} bytes, expected at least {}", bytes.size(), kKindAt));
  if (std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    return wrong("it does not start with \"AIRLOCK\": the peer is no Airlock program");
  }
  const std::uint16_t major = u16_at(bytes, kVersionAt);
  const std::uint16_t minor = u16_at(bytes, kVersionAt + 2);
  if (major != kProtocolMajor) {
    return Status(
        StatusCode::kVersionMismatch,
        "peer speaks protocol {}.{}, this program {}.{}: run the same release on both sides", major,
        minor, kProtocolMajor, kProtocolMinor);
  }
  if (bytes.size() < kBodyAt) return wrong("it has no kind");
  const auto kind = std::to_integer<std::uint8_t>(bytes[kKindAt]);
  if (kind < 1 || kind > std::variant_size_v<ControlMessage>)
    return wrong(fmt::format("unknown kind {}", kind));

  const bool newer = minor > kProtocolMinor;
  WireReader reader(bytes.subspan(kBodyAt));
  ControlMessage message =
      read_body(reader, static_cast<Kind>(kind), newer ? limits::kMaxWireTokens : 0);
  Status end = reader.finish(newer ? WireReader::Rest::kIgnore : WireReader::Rest::kRefuse);
  if (!end.ok()) return end.with_context("control message");
  return message;
}

}  // namespace airlock
