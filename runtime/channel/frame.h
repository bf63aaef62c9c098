#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "proto/limits.h"

namespace airlock {

/// In front of each message on the data socket; little endian:
///
///   0        8           16             20    24
///   | epoch  | sequence  | header bytes | 0   | the message's header, where it takes the socket
///
/// and then, from the next multiple of limits::kInlineAlignment on, what rides behind the header.
struct Opening {
  std::uint64_t epoch = 0;
  std::uint64_t sequence = 0;
};
inline constexpr std::size_t kOpeningBytes = 24;
static_assert(kOpeningBytes + limits::kMaxEncodedHeaderBytes + limits::kInlineAlignment <=
              limits::kHeaderBytes);

/// Where begins, in an opening's frame, what rides behind a header of so many bytes.
constexpr std::size_t inline_start(std::size_t header_bytes) {
  const std::size_t end = kOpeningBytes + header_bytes;
  return (end + limits::kInlineAlignment - 1) & ~(limits::kInlineAlignment - 1);
}

/// Of a message with nothing behind its header.
std::vector<std::byte> encode_opening(const Opening& opening, std::span<const std::byte> header);
/// The same into `front`, of inline_start() bytes: what is behind the header follows.
void write_opening(const Opening& opening, std::span<const std::byte> header,
                   std::span<std::byte> front);

/// What an opening's frame has, in place.
struct OpenedFrame {
  std::span<const std::byte> header;
  std::span<const std::byte> behind;
};
/// Of an opening that is exactly `expected`. kProtocolError.
Result<OpenedFrame> decode_opening(std::span<const std::byte> frame, const Opening& expected);

}  // namespace airlock
