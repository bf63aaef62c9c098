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
///   0        8           16
///   | epoch  | sequence  | the message's header, where it takes the socket
struct Opening {
  std::uint64_t epoch = 0;
  std::uint64_t sequence = 0;
};
inline constexpr std::size_t kOpeningBytes = 16;
static_assert(kOpeningBytes + limits::kMaxEncodedHeaderBytes <= limits::kHeaderBytes);

std::vector<std::byte> encode_opening(const Opening& opening, std::span<const std::byte> header);
/// The header behind an opening that is exactly `expected`, in place. kProtocolError.
Result<std::span<const std::byte>> decode_opening(std::span<const std::byte> frame,
                                                  const Opening& expected);

}  // namespace airlock
