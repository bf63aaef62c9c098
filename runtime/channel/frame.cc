#include "runtime/channel/frame.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"

namespace airlock {

namespace {

struct Front {
  Opening opening;
  std::uint32_t header_bytes = 0;
  std::uint32_t zero = 0;
};
static_assert(std::endian::native == std::endian::little);
static_assert(sizeof(Front) == kOpeningBytes);

void put(const Opening& opening, std::span<const std::byte> header, std::span<std::byte> into) {
  const Front front{opening, static_cast<std::uint32_t>(header.size())};
  std::memcpy(into.data(), &front, kOpeningBytes);
  std::ranges::copy(header, into.begin() + kOpeningBytes);
}

bool is_zero(std::byte byte) { return byte == std::byte{0}; }

}  // namespace

std::vector<std::byte> encode_opening(const Opening& opening, std::span<const std::byte> header) {
  std::vector<std::byte> frame(kOpeningBytes + header.size());
  put(opening, header, frame);
  return frame;
}

void write_opening(const Opening& opening, std::span<const std::byte> header,
                   std::span<std::byte> front) {
  CHECK(front.size() == inline_start(header.size()));
  put(opening, header, front);
  std::ranges::fill(front.subspan(kOpeningBytes + header.size()), std::byte{0});
}

Result<OpenedFrame> decode_opening(std::span<const std::byte> frame, const Opening& expected) {
  if (frame.size() < kOpeningBytes) {
    return Status(StatusCode::kProtocolError,
                  "a message starts with a frame of {} bytes, expected at least {}", frame.size(),
                  kOpeningBytes);
  }
  Front front;
  std::memcpy(&front, frame.data(), kOpeningBytes);
  const Opening& opening = front.opening;
  if (opening.epoch != expected.epoch) {
    // The right epoch is no business of a peer that guessed: it is not named.
    return Status(StatusCode::kProtocolError, "a message of another session's epoch");
  }
  if (opening.sequence != expected.sequence) {
    return Status(StatusCode::kProtocolError, "a message's sequence is {}, expected {}",
                  opening.sequence, expected.sequence);
  }
  const auto behind_front = frame.subspan(kOpeningBytes);
  if (front.zero != 0)
    return Status(StatusCode::kProtocolError, "a message's opening has no zero behind its length");
  if (front.header_bytes > behind_front.size()) {
    return Status(StatusCode::kProtocolError, "a message's opening says {} bytes of header, of {}",
                  front.header_bytes, behind_front.size());
  }
  const auto header = behind_front.first(front.header_bytes);
  if (header.size() == behind_front.size()) return OpenedFrame{header, {}};
  const std::size_t start = inline_start(header.size());
  if (start >= frame.size() ||
      !std::ranges::all_of(frame.first(start).subspan(kOpeningBytes + header.size()), is_zero)) {
    return Status(StatusCode::kProtocolError, "what is behind a message's header does not begin");
  }
  return OpenedFrame{header, frame.subspan(start)};
}

}  // namespace airlock
