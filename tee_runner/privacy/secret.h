#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <memory>

#include "base/status.h"
#include "runtime/exact/pad.h"

namespace airlock {

/// The secret that all keys of this process come from: 32 random bytes on a page of their own that
/// no core dump holds, that a fork gives to nobody and that stays out of swap where the system lets
/// it. Made anew at each start, never written anywhere, wiped at the end.
class BootSecret {
 public:
  /// kInternal: the system has no randomness; kResourceExhausted: no page.
  static Result<std::unique_ptr<BootSecret>> create();
  ~BootSecret();
  BootSecret(const BootSecret&) = delete;
  BootSecret& operator=(const BootSecret&) = delete;

  /// A key for `label` under a salt that is drawn here, so that no two calls give the same one.
  /// kInternal: in another process than the one that made the secret.
  Result<PadKey> draw_key(std::string_view label) const;
  /// That this is the process that made it; a fork's child has no secret.
  Status check_process() const;

 private:
  explicit BootSecret(std::byte* page);

  std::byte* const page_;
  const pid_t pid_;
};

}  // namespace airlock
