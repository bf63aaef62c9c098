#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"

namespace airlock {

/// Numbers that nobody can guess, from the system. Never waits once the system has started.
Status fill_random(std::span<std::uint64_t> numbers);

}  // namespace airlock
