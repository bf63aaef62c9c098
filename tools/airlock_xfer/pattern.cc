#include "tools/airlock_xfer/pattern.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/vectorize.h"

namespace airlock::xfer {
namespace {

constexpr std::uint64_t kStep = 0x9E3779B97F4A7C15;  // odd: 2^64 words before one comes again
constexpr std::size_t kBlockBytes = 4096;

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014).
std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

/// `count` whole words, the first of them number `first`.
AIRLOCK_VECTORIZE
void fill_words(std::byte* out, std::size_t first, std::size_t count, std::uint64_t seed) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t word = seed + (first + i) * kStep;
    std::memcpy(out + i * sizeof(word), &word, sizeof(word));
  }
}

}  // namespace

std::uint64_t pattern_seed(std::uint64_t row, std::uint64_t message) {
  return mix(mix(row * kStep + 1) + message * kStep);
}

void fill_pattern(std::span<std::byte> bytes, std::uint64_t seed) {
  const std::size_t words = bytes.size() / sizeof(std::uint64_t);
  fill_words(bytes.data(), 0, words, seed);
  std::array<std::byte, sizeof(std::uint64_t)> last{};
  fill_words(last.data(), words, 1, seed);
  const auto rest = bytes.subspan(words * sizeof(std::uint64_t));
  std::copy_n(last.begin(), rest.size(), rest.begin());
}

std::uint64_t count_wrong(std::span<const std::byte> bytes, std::uint64_t seed) {
  std::array<std::byte, kBlockBytes> expected{};
  std::uint64_t wrong = 0;
  for (std::size_t at = 0; at < bytes.size(); at += kBlockBytes) {
    const auto block = bytes.subspan(at, std::min(kBlockBytes, bytes.size() - at));
    fill_words(expected.data(), at / sizeof(std::uint64_t),
               (block.size() + sizeof(std::uint64_t) - 1) / sizeof(std::uint64_t), seed);
    if (std::memcmp(block.data(), expected.data(), block.size()) == 0) continue;
    for (std::size_t i = 0; i < block.size(); ++i) wrong += block[i] != expected[i] ? 1 : 0;
  }
  return wrong;
}

}  // namespace airlock::xfer
