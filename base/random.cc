#include "base/random.h"

#include <sys/random.h>

#include <cerrno>

#include "base/file.h"

namespace airlock {

Status fill_random(std::span<std::uint64_t> numbers) {
  // Up to 256 bytes come whole.
  CHECK(numbers.size_bytes() <= 256);
  if (::getrandom(numbers.data(), numbers.size_bytes(), 0) ==
      static_cast<ssize_t>(numbers.size_bytes()))
    return {};
  return os_error("get random numbers", errno);
}

}  // namespace airlock
