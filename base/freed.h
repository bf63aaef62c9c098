#pragma once

namespace airlock {

/// For std::unique_ptr over what a C library makes and `kFree` gives back.
template <auto kFree>
struct Freed {
  void operator()(auto* object) const { kFree(object); }
};

}  // namespace airlock
