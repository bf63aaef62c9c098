#pragma once

#include <array>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <optional>

namespace airlock::bench {

/// A number of the command line, in its place.
struct Number {
  long otherwise;  // where it is not given
  long most;       // and at least 1
};

/// All of them; nullopt, with `usage` on stderr, where one is out of its range or there are more.
template <std::size_t count>
std::optional<std::array<long, count>> numbers_of(int argc, char** argv, const char* usage,
                                                  const Number (&wanted)[count]) {
  std::array<long, count> numbers{};
  bool fits = argc <= static_cast<int>(count) + 1;
  for (std::size_t i = 0; i < count; ++i) {
    const auto place = static_cast<int>(i) + 1;
    numbers[i] = argc > place ? std::strtol(argv[place], nullptr, 10) : wanted[i].otherwise;
    fits = fits && numbers[i] >= 1 && numbers[i] <= wanted[i].most;
  }
  if (fits) return numbers;
  std::fprintf(stderr, "usage: %s\n", usage);
  return std::nullopt;
}

}  // namespace airlock::bench
