#include "tee_runner/tokenizer/text_hash.h"

#include <cstring>
#include <span>

#include "base/deadline.h"
#include "base/mix.h"
#include "base/random.h"

namespace airlock {

std::uint64_t hash_seed() {
  static const std::uint64_t seed = [] {
    std::uint64_t number = 0;
    if (!fill_random(std::span(&number, 1)).ok()) number = now_ns();
    return number;
  }();
  return seed;
}

std::size_t TextHash::operator()(std::string_view text) const {
  static const std::uint64_t kSeed = hash_seed();
  std::uint64_t hash = mix(kSeed ^ text.size());
  for (; text.size() > sizeof(hash); text.remove_prefix(sizeof(hash))) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data(), sizeof(word));
    hash = mix(hash ^ word);
  }
  std::uint64_t rest = 0;
  if (!text.empty()) std::memcpy(&rest, text.data(), text.size());
  return mix(hash ^ rest);
}

}  // namespace airlock
