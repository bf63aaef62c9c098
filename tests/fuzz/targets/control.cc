#include "tests/fuzz/codec_target.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

std::vector<Bytes> seeds() {
  std::vector<Bytes> all;
  for (const ControlMessage& message : valid_controls()) all.push_back(encode_control(message));
  // A later minor version, with more elements than we know.
  Bytes later = encode_control(Sign{});
  later[10] = std::byte{1};
  later.back() = std::byte{0x91};
  later.push_back(std::byte{7});
  all.push_back(std::move(later));
  return all;
}

bool run(std::span<const std::byte> input) {
  const auto message = decode_any_control(input);
  if (!message.ok()) check_refusal(message.status());
  return message.ok();
}

}  // namespace

constinit const Target kControl = {"control", seeds, run};

}  // namespace airlock::fuzz
