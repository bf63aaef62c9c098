#include "gpu_server/group/frame.h"

#include <cstring>
#include <type_traits>
#include <utility>

#include "base/check.h"
#include "proto/wire.h"

namespace airlock {

namespace {

/// In front of the body. Ranks are of one build: it travels as it lies in memory.
struct Head {
  std::uint32_t magic = 0x616c6772;  // "rgla"
  std::uint32_t kind = 0;
  std::uint64_t number = 0;
  std::array<std::uint64_t, 3> values{};
  std::uint64_t body_bytes = 0;
};
static_assert(std::is_trivially_copyable_v<Head>);
static_assert(sizeof(Head) + limits::kMaxEncodedHeaderBytes <= kFrameRoom);

constexpr std::size_t kMaxIdentityBytes = 1024;
constexpr std::size_t kMaxNameBytes = 256;

template <typename T, typename Message>
concept Is = std::same_as<std::remove_const_t<T>, Message>;

void fields(auto& wire, Is<RankHello> auto& hello) {
  wire.body("a rank's hello", 6);
  wire.text("the release", hello.version, kMaxNameBytes);
  wire.text("the model's identity", hello.identity, kMaxIdentityBytes);
  wire.text("the host's name", hello.host, kMaxNameBytes);
  wire.number("the process id", hello.pid);
  wire.number("the thread count", hello.threads, 1, limits::kMaxThreads);
  wire.number("the CPU count", hello.cpus);
}

void fields(auto& wire, Is<RankLoaded> auto& loaded) {
  wire.body("what a rank has loaded", 6);
  wire.text("the device's name", loaded.device, limits::kMaxDeviceNameBytes);
  wire.enumerator("the weights' dtype", loaded.dtype);
  wire.number("the thread count", loaded.threads, 1, limits::kMaxThreads);
  wire.text("the name of what multiplies fp64", loaded.fp64_products, limits::kMaxLibraryNameBytes);
  wire.number("the bytes of weights", loaded.bytes);
  wire.number("the bytes of lines", loaded.lines_bytes, 0, kMaxGroupTextBytes);
}

template <typename T>
std::vector<std::byte> written(const T& value) {
  WireWriter wire;
  fields(wire, value);
  return std::move(wire).take();
}

template <typename T>
Result<T> read(std::span<const std::byte> bytes) {
  WireReader wire(bytes);
  T value;
  fields(wire, value);
  RETURN_IF_ERROR(wire.finish());
  return value;
}

}  // namespace

Frame Frame::of_text(FrameKind kind, std::uint64_t value, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text.substr(0, limits::kMaxErrorTextBytes)));
  return {.kind = kind, .values = {value}, .body = {bytes.begin(), bytes.end()}};
}

std::string Frame::text() const {
  return {reinterpret_cast<const char*>(body.data()), body.size()};
}

StatusCode Frame::code() const {
  const bool known = values[0] > 0 && values[0] < static_cast<std::uint64_t>(StatusCode::kBusy);
  return known ? static_cast<StatusCode>(values[0]) : StatusCode::kInternal;
}

std::vector<std::byte> encode(const Frame& frame) {
  const Head head{.kind = static_cast<std::uint32_t>(frame.kind),
                  .number = frame.number,
                  .values = frame.values,
                  .body_bytes = frame.body.size()};
  std::vector<std::byte> bytes(sizeof(Head) + frame.body.size());
  CHECK(bytes.size() <= kFrameRoom);
  std::memcpy(bytes.data(), &head, sizeof(Head));
  std::ranges::copy(frame.body, bytes.begin() + sizeof(Head));
  return bytes;
}

Result<Frame> decode_frame(std::span<const std::byte, kFrameRoom> bytes) {
  Head head;
  std::memcpy(&head, bytes.data(), sizeof(Head));
  const bool known = head.kind >= static_cast<std::uint32_t>(FrameKind::kHello) &&
                     head.kind <= static_cast<std::uint32_t>(FrameKind::kStopped);
  if (head.magic != Head().magic || !known || head.body_bytes > kFrameRoom - sizeof(Head)) {
    return Status(StatusCode::kProtocolError, "a rank has sent what is no frame");
  }
  const auto body = bytes.subspan(sizeof(Head), head.body_bytes);
  return Frame{
      static_cast<FrameKind>(head.kind), head.number, head.values, {body.begin(), body.end()}};
}

std::vector<std::byte> encode(const RankHello& hello) { return written(hello); }
Result<RankHello> decode_hello(std::span<const std::byte> bytes) { return read<RankHello>(bytes); }
std::vector<std::byte> encode(const RankLoaded& loaded) { return written(loaded); }
Result<RankLoaded> decode_loaded(std::span<const std::byte> bytes) {
  return read<RankLoaded>(bytes);
}

}  // namespace airlock
