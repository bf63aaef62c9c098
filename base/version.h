#pragma once

namespace airlock {

/// Of all programs, as CMakeLists.txt has it: "0.1.0".
inline constexpr const char* kVersion = AIRLOCK_VERSION;

}  // namespace airlock
