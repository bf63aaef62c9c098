#pragma once

#include <memory>

#include "base/thread_pool.h"
#include "runtime/cpu/cpu_backend.h"
#include "runtime/cpu/fair_gate.h"
#include "runtime/cpu/weights.h"

namespace airlock {

/// What all backends of one CpuModel share. `pool` belongs to whoever has the gate's turn; the rest
/// never changes.
struct CpuShared {
  explicit CpuShared(std::size_t threads) : pool(threads) {}

  BackendInfo info;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  Weights weights;
  FairGate gate;
  ThreadPool pool;
};

/// `shared` lives as long as its last backend: sessions end in any order.
std::unique_ptr<Backend> make_cpu_backend(std::shared_ptr<CpuShared> shared);

}  // namespace airlock
