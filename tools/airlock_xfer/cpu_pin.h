#pragma once

#include <sched.h>

#include <array>
#include <optional>

#include "base/status.h"

namespace airlock::xfer {

/// Where the main threads of this process and of the peer run; libzmq's threads stay free.
using CpuPair = std::array<int, 2>;

/// Whether this process may use `cpu`.
bool may_use_cpu(int cpu);

/// Keeps the calling thread on one CPU while it lives; threads made before stay as they are.
class CpuPin {
 public:
  /// kInvalidInput where the system does not allow it.
  static Result<CpuPin> pin(int cpu);
  ~CpuPin();
  CpuPin(CpuPin&& other) noexcept;
  CpuPin& operator=(CpuPin&&) = delete;

 private:
  CpuPin() = default;
  std::optional<cpu_set_t> before_;
};

}  // namespace airlock::xfer
