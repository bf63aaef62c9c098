#include "tools/airlock_xfer/cpu_pin.h"

#include <cerrno>
#include <cstring>
#include <utility>

namespace airlock::xfer {

bool may_use_cpu(int cpu) {
  cpu_set_t allowed;
  if (cpu < 0 || cpu >= CPU_SETSIZE || ::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return false;
  }
  return CPU_ISSET(static_cast<unsigned>(cpu), &allowed);
}

Result<CpuPin> CpuPin::pin(int cpu) {
  CpuPin pin;
  cpu_set_t before;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<unsigned>(cpu), &one);
  if (::sched_getaffinity(0, sizeof(before), &before) != 0 ||
      ::sched_setaffinity(0, sizeof(one), &one) != 0) {
    return Status(StatusCode::kInvalidInput, "cannot stay on CPU {}: {}", cpu,
                  std::strerror(errno));
  }
  pin.before_ = before;
  return pin;
}

CpuPin::CpuPin(CpuPin&& other) noexcept : before_(std::exchange(other.before_, std::nullopt)) {}

CpuPin::~CpuPin() {
  if (before_.has_value()) (void)::sched_setaffinity(0, sizeof(*before_), &*before_);
}

}  // namespace airlock::xfer
