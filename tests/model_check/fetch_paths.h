#pragma once

#include <string>
#include <vector>

namespace airlock {

/// Drives a ring over each of its paths, also those where the peer breaks a rule, and counts. What
/// is fetched twice in one operation.
std::vector<std::string> fetched_twice_by_the_ring();

}  // namespace airlock
