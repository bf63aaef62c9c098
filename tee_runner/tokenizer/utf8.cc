#include "tee_runner/tokenizer/utf8.h"

#include <algorithm>
#include <array>

namespace airlock {
namespace {

std::uint8_t byte_at(std::string_view text, std::size_t at) {
  return static_cast<std::uint8_t>(text[at]);
}

/// How a character goes on after its first byte.
struct Lead {
  // 0: no character begins so.
  std::size_t bytes = 0;
  // What its second byte may be.
  std::uint8_t least = 0x80;
  std::uint8_t most = 0xbf;
};

Lead lead_of(std::uint8_t byte) {
  if (byte < 0x80) return {.bytes = 1};
  if (byte < 0xc2 || byte > 0xf4) return {};
  if (byte < 0xe0) return {.bytes = 2};
  if (byte == 0xe0) return {.bytes = 3, .least = 0xa0};
  if (byte == 0xed) return {.bytes = 3, .most = 0x9f};  // no surrogates
  if (byte < 0xf0) return {.bytes = 3};
  if (byte == 0xf0) return {.bytes = 4, .least = 0x90};
  if (byte == 0xf4) return {.bytes = 4, .most = 0x8f};
  return {.bytes = 4};
}

}  // namespace

std::size_t append_utf8(std::string_view bytes, TextEnd end, std::string& out) {
  std::size_t at = 0;
  while (at < bytes.size()) {
    const Lead lead = lead_of(byte_at(bytes, at));
    std::size_t good = std::min<std::size_t>(lead.bytes, 1);
    Lead next = lead;
    while (good > 0 && good < lead.bytes && at + good < bytes.size()) {
      const std::uint8_t byte = byte_at(bytes, at + good);
      if (byte < next.least || byte > next.most) break;
      next = {.bytes = lead.bytes};
      ++good;
    }
    const bool whole = good > 0 && good == lead.bytes;
    if (!whole && good > 0 && at + good == bytes.size() && end == TextEnd::kMoreComes) return at;
    out += whole ? bytes.substr(at, good) : kReplacementCharacter;
    at += std::max<std::size_t>(good, 1);
  }
  return at;
}

std::string repaired_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  append_utf8(bytes, TextEnd::kEnds, out);
  return out;
}

Character first_character(std::string_view text) {
  const std::uint8_t lead = byte_at(text, 0);
  const std::size_t bytes = lead_of(lead).bytes;
  if (bytes < 2 || text.size() < bytes) return {lead, 1};
  char32_t code = lead & (0xffU >> (bytes + 1));
  for (std::size_t i = 1; i < bytes; ++i) code = code << 6U | (byte_at(text, i) & 0x3fU);
  return {code, bytes};
}

std::size_t last_character_at(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (byte_at(text, at) & 0xc0U) == 0x80U) --at;
  return at;
}

void append_character(std::string& text, char32_t code) {
  const auto append = [&](char32_t byte) { text += static_cast<char>(byte); };
  const auto append_rest = [&](unsigned shift) { append(0x80U | (code >> shift & 0x3fU)); };
  if (code < 0x80) return append(code);
  if (code < 0x800) {
    append(0xc0U | code >> 6U);
  } else if (code < 0x10000) {
    append(0xe0U | code >> 12U);
    append_rest(6);
  } else {
    append(0xf0U | code >> 18U);
    append_rest(12);
    append_rest(6);
  }
  append_rest(0);
}

bool is_white_space(char32_t code) {
  if (code < 0x80) return code == ' ' || (code >= '\t' && code <= '\r');
  static constexpr std::array<char32_t, 8> kOthers = {0x85,   0xa0,   0x1680, 0x2028,
                                                      0x2029, 0x202f, 0x205f, 0x3000};
  return (code >= 0x2000 && code <= 0x200a) || std::ranges::find(kOthers, code) != kOthers.end();
}

}  // namespace airlock
