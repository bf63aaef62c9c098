#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/fuzz/codec_target.h"

namespace airlock {
namespace {

using Bytes = std::vector<std::byte>;

std::vector<Bytes> valid_messages() {
  std::vector<Bytes> messages;
  for (const RequestHeader& request : valid_requests()) messages.push_back(encode(request));
  for (const ResponseHeader& response : valid_responses()) messages.push_back(encode(response));
  for (const ControlMessage& control : valid_controls())
    messages.push_back(encode_control(control));
  return messages;
}

/// One small damage: a bit, a byte of msgpack's own, a cut, a piece doubled, a piece of another
/// message.
void mutate(Bytes& bytes, const Bytes& other, std::mt19937& random) {
  static constexpr unsigned char kHeads[] = {0x90, 0x9f, 0xdc, 0xdd, 0xde, 0xa0, 0xbf, 0xd9, 0xdb,
                                             0xc4, 0xc7, 0xca, 0xcc, 0xcf, 0xd0, 0xc0, 0xc1, 0xff};
  if (bytes.empty()) bytes.push_back(std::byte{0});
  const std::size_t at = random() % bytes.size();
  const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
  switch (random() % 6) {
    case 0:
      bytes[at] ^= static_cast<std::byte>(1U << (random() % 8));
      break;
    case 1:
      bytes[at] = static_cast<std::byte>(kHeads[random() % sizeof(kHeads)]);
      break;
    case 2:
      bytes.erase(place, bytes.end());
      break;
    case 3:
      bytes.insert(place, static_cast<std::byte>(random() & 0xffU));
      break;
    case 4:
      bytes.erase(place);
      break;
    default:
      bytes.insert(place, other.begin(),
                   other.begin() + static_cast<std::ptrdiff_t>(random() % other.size()));
  }
}

TEST(CodecFuzz, survives_random_bytes) {
  std::mt19937 random(1);
  for (int round = 0; round < 50000; ++round) {
    Bytes bytes(random() % 200);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 0xffU);
    decode_anything(bytes);
  }
}

TEST(CodecFuzz, survives_random_bodies_behind_a_valid_start) {
  std::mt19937 random(2);
  const Bytes sign = encode_control(Sign{});
  for (int round = 0; round < 50000; ++round) {
    Bytes bytes(sign.begin(), sign.end() - 1);
    bytes.back() = static_cast<std::byte>(random() % 7);
    for (std::size_t left = random() % 100; left > 0; --left)
      bytes.push_back(static_cast<std::byte>(random() & 0xffU));
    decode_anything(bytes);
  }
}

TEST(CodecFuzz, survives_damaged_messages) {
  const std::vector<Bytes> messages = valid_messages();
  std::mt19937 random(3);
  for (int round = 0; round < 200000; ++round) {
    Bytes bytes = messages[random() % messages.size()];
    for (std::size_t left = random() % 4 + 1; left > 0; --left) {
      mutate(bytes, messages[random() % messages.size()], random);
    }
    decode_anything(bytes);
  }
}

TEST(CodecFuzz, survives_every_single_byte_in_every_message) {
  for (const Bytes& message : valid_messages()) {
    for (std::size_t at = 0; at < message.size(); ++at) {
      for (unsigned value = 0; value < 256; ++value) {
        Bytes bytes = message;
        bytes[at] = static_cast<std::byte>(value);
        decode_anything(bytes);
      }
    }
  }
}

}  // namespace
}  // namespace airlock
