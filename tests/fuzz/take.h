#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

namespace airlock::fuzz {

/// A number from the front of `input`, which is shortened by it; zeros where it ends before.
template <typename T>
T take(std::span<const std::byte>& input) {
  T value{};
  const std::size_t bytes = std::min(sizeof(T), input.size());
  if (bytes > 0) std::memcpy(&value, input.data(), bytes);
  input = input.subspan(bytes);
  return value;
}

/// The reverse, for seeds.
template <typename T>
void put(std::vector<std::byte>& bytes, T value) {
  const std::size_t at = bytes.size();
  bytes.resize(at + sizeof(value));
  std::memcpy(bytes.data() + at, &value, sizeof(value));
}

}  // namespace airlock::fuzz
