#include "proto/handshake.h"

#include <concepts>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>

#include "proto/wire.h"

namespace airlock {
namespace {

constexpr std::string_view kMagic("AIRLOCK", 8);
constexpr std::size_t kVersionAt = kMagic.size();
constexpr std::size_t kKindAt = kVersionAt + 4;
constexpr std::size_t kBodyAt = kKindAt + 1;

bool is_hex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// The fields of each message in the order of the wire. `wire` is a WireWriter and the message
// const, or `wire` is a WireReader.

template <typename T, typename Message>
concept Is = std::same_as<std::remove_const_t<T>, Message>;

void digest_field(auto& wire, auto& digest) {
  wire.text("the digest", digest, limits::kMaxDigestBytes);
  wire.demand(is_hex(digest), "the digest is not in hex digits");
}

void segment_field(auto& wire, std::string_view what, auto& name, bool has_ring) {
  wire.text(what, name, limits::kMaxSegmentNameBytes);
  wire.demand(has_ring || name.empty(), "{} without a ring", what);
  wire.demand(name.empty() || is_segment_name(name), "{} \"{}\" is not \"airlock-\" and [0-9a-z-]",
              what, name);
}

void float_field(auto& wire, std::string_view what, auto& dtype) {
  wire.enumerator(what, dtype);
  wire.demand(is_model_float(dtype), "{} is not a float type", what);
}

void fields(auto& wire, Is<ModelDims> auto& dims) {
  wire.array("the model's dimensions", 7);
  for (auto* dimension : {&dims.hidden, &dims.intermediate, &dims.layers, &dims.heads,
                          &dims.kv_heads, &dims.head_dim, &dims.vocab}) {
    wire.number("a dimension of the model", *dimension, 0, INT32_MAX);
  }
  if (!dims.is_none()) wire.demand(dims.check());
}

void fields(auto& wire, Is<Hello> auto& hello) {
  wire.body("hello", 11);
  wire.text("the client's name", hello.client, limits::kMaxClientNameBytes);
  wire.number("the ring mode", hello.ring.choice, 0, 1);
  wire.number("the slot count", hello.ring.slot_count);
  wire.number("the slot bytes", hello.ring.slot_bytes);
  wire.demand(check_wish(hello.ring));
  digest_field(wire, hello.digest);
  wire.number("the capabilities", hello.capabilities);
  wire.array("the wish for a pool", kCountOf<PoolUse>);
  for (auto& bytes : hello.pool) {
    wire.number("the wish for a pool", bytes, 0, limits::kMaxPoolBytes);
  }
  wire.number("the path limit", hello.path_limit, 0, limits::kMaxSlotBytes);
  wire.number("the inline bytes", hello.inline_bytes, 0, limits::kMaxInlineBytes);
  wire.enumerator("the privacy mode", hello.privacy);
  wire.enumerator("the int8 weights", hello.int8_weights);
  wire.demand((hello.privacy == Privacy::kPlain) == (hello.int8_weights == Int8Weights::kNone),
              "a privacy mode without int8 weights, or they without it");
}

void fields(auto& wire, Is<Welcome> auto& welcome) {
  wire.body("welcome", 20);
  wire.number("the epoch", welcome.epoch);
  wire.text("the token", welcome.token, limits::kSessionTokenBytes);
  wire.demand(welcome.token.size() == limits::kSessionTokenBytes && is_hex(welcome.token),
              "the token is not {} hex digits", limits::kSessionTokenBytes);
  wire.number("the ring mode", welcome.has_ring);
  wire.number("the slot count", welcome.geometry.slot_count);
  wire.number("the slot bytes", welcome.geometry.slot_bytes);
  wire.demand(check_geometry(welcome.geometry));
  wire.number("the path limit", welcome.path_limit, 1, limits::kMaxSlotBytes);
  wire.demand(welcome.path_limit <= welcome.geometry.slot_bytes,
              "the path limit is more than a slot has");
  wire.number("whether the path limit is found by trying", welcome.calibrates);
  wire.demand(!welcome.calibrates || welcome.has_ring, "a path limit to be tried without a ring");
  wire.number("the inline bytes", welcome.inline_bytes, 0, limits::kMaxInlineBytes);
  segment_field(wire, "the request segment", welcome.request_segment, welcome.has_ring);
  segment_field(wire, "the reply segment", welcome.reply_segment, welcome.has_ring);
  wire.demand(welcome.request_segment != welcome.reply_segment || welcome.request_segment.empty(),
              "one segment for both rings");
  wire.demand(welcome.request_segment.empty() == welcome.reply_segment.empty(),
              "a name for one of two segments");
  fields(wire, welcome.dims);
  digest_field(wire, welcome.digest);
  float_field(wire, "the weights' dtype", welcome.dtype);
  float_field(wire, "the stored dtype", welcome.stored_dtype);
  wire.number("the thread count", welcome.threads, 1, limits::kMaxThreads);
  wire.text("the device's name", welcome.device, limits::kMaxDeviceNameBytes);
  wire.number("the config's size", welcome.config_bytes, 0, limits::kMaxConfigBytes);
  wire.number("the capabilities", welcome.capabilities);
  wire.number("the pool mode", welcome.has_pool);
  wire.text("the name of what multiplies fp64", welcome.fp64_products,
            limits::kMaxLibraryNameBytes);
}

void fields(auto& wire, Is<Refusal> auto& refusal) {
  wire.body("refusal", 2);
  wire.status_code(refusal.code, StatusCode::kUsage);
  wire.text("the reason", refusal.message, limits::kMaxErrorTextBytes);
}

void fields(auto& wire, Is<Sign> auto&) { wire.body("sign", 0); }

void fields(auto& wire, Is<Goodbye> auto& goodbye) {
  wire.body("goodbye", 1);
  wire.text("the reason", goodbye.reason, limits::kMaxErrorTextBytes);
}

void fields(auto& wire, Is<DataSocket> auto& socket) {
  wire.body("data socket", 1);
  wire.text("the data endpoint", socket.endpoint, limits::kMaxDataEndpointBytes);
  wire.demand(socket.endpoint.starts_with("ipc://") || socket.endpoint.starts_with("tcp://"),
              "the data endpoint \"{}\" is neither ipc:// nor tcp://", socket.endpoint);
}

void fields(auto& wire, Is<Attached> auto& attached) {
  wire.body("attached", 2);
  wire.list("the lease", attached.pool, limits::kMaxPoolExtents, [&wire](auto& extent) {
    wire.array("an extent", 3);
    wire.enumerator("an extent's use", extent.use);
    wire.number("an extent's offset", extent.offset);
    wire.number("an extent's bytes", extent.bytes);
  });
  wire.demand(check_extents(attached.pool));
  digest_field(wire, attached.int8_digest);
}

unsigned u16_at(std::span<const std::byte> bytes, std::size_t at) {
  return std::to_integer<unsigned>(bytes[at]) | (std::to_integer<unsigned>(bytes[at + 1]) << 8U);
}

template <typename... Args>
Status wrong(fmt::format_string<Args...> format, Args&&... args) {
  return {StatusCode::kProtocolError,
          "control message: " + fmt::format(format, std::forward<Args>(args)...)};
}

}  // namespace

std::vector<std::byte> encode_control(const ControlMessage& message) {
  std::string head(kMagic);
  for (const std::uint16_t version : {kProtocolMajor, kProtocolMinor}) {
    head += static_cast<char>(version & 0xffU);
    head += static_cast<char>(version >> 8U);
  }
  head += static_cast<char>(message.index() + 1);
  WireWriter writer(std::as_bytes(std::span(head)));
  std::visit([&writer](const auto& body) { fields(writer, body); }, message);
  std::vector<std::byte> bytes = std::move(writer).take();
  CHECK(bytes.size() <= limits::kMaxControlFrameBytes);
  return bytes;
}

Result<ControlMessage> decode_control(std::span<const std::byte> bytes) {
  if (bytes.size() > limits::kMaxControlFrameBytes)
    return wrong("{} bytes, expected at most {}", bytes.size(), limits::kMaxControlFrameBytes);
  if (bytes.size() < kKindAt) return wrong("{} bytes, expected at least {}", bytes.size(), kKindAt);
  if (std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0)
    return wrong("it does not start with \"AIRLOCK\": the peer is no Airlock program");
  const unsigned major = u16_at(bytes, kVersionAt);
  const unsigned minor = u16_at(bytes, kVersionAt + 2);
  if (major != kProtocolMajor) {
    return Status(
        StatusCode::kVersionMismatch,
        "peer speaks protocol {}.{}, this program {}.{}: run the same release on both sides", major,
        minor, kProtocolMajor, kProtocolMinor);
  }
  if (bytes.size() < kBodyAt) return wrong("it has no kind");
  const auto kind = std::to_integer<std::size_t>(bytes[kKindAt]);
  // Of each kind, in the order of their numbers.
  std::array<ControlMessage, std::variant_size_v<ControlMessage>> messages = {
      Hello{}, Welcome{}, Refusal{}, Sign{}, Goodbye{}, DataSocket{}, Attached{}};
  if (kind < 1 || kind > messages.size()) return wrong("unknown kind {}", kind);
  ControlMessage& message = messages[kind - 1];

  WireReader reader(bytes.subspan(kBodyAt),
                    minor > kProtocolMinor ? WireReader::Rest::kIgnore : WireReader::Rest::kRefuse);
  std::visit([&reader](auto& body) { fields(reader, body); }, message);
  if (const Status end = reader.finish(); !end.ok()) return end.with_context("control message");
  return std::move(message);
}

}  // namespace airlock
