#include "runtime/channel/frame.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace airlock {

static_assert(std::endian::native == std::endian::little);
static_assert(sizeof(Opening) == kOpeningBytes);

std::vector<std::byte> encode_opening(const Opening& opening, std::span<const std::byte> header) {
  std::vector<std::byte> frame(kOpeningBytes + header.size());
  std::memcpy(frame.data(), &opening, kOpeningBytes);
  std::copy(header.begin(), header.end(), frame.begin() + kOpeningBytes);
  return frame;
}

Result<std::span<const std::byte>> decode_opening(std::span<const std::byte> frame,
                                                  const Opening& expected) {
  if (frame.size() < kOpeningBytes) {
    return Status(StatusCode::kProtocolError,
                  "a message starts with a frame of {} bytes, expected at least {}", frame.size(),
                  kOpeningBytes);
  }
  Opening opening;
  std::memcpy(&opening, frame.data(), kOpeningBytes);
  if (opening.epoch != expected.epoch) {
    // The right epoch is no business of a peer that guessed: it is not named.
    return Status(StatusCode::kProtocolError, "a message of another session's epoch");
  }
  if (opening.sequence != expected.sequence) {
    return Status(StatusCode::kProtocolError, "a message's sequence is {}, expected {}",
                  opening.sequence, expected.sequence);
  }
  return frame.subspan(kOpeningBytes);
}

}  // namespace airlock
