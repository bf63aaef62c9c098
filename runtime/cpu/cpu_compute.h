#pragma once

#include <memory>

#include "base/thread_pool.h"
#include "runtime/compute.h"
#include "runtime/cpu/fair_gate.h"
#include "runtime/cpu/weights.h"

namespace airlock {

/// What all Computes of one CpuModel share. `pool` belongs to whoever has the gate's turn; the rest
/// never changes.
struct CpuShared {
  explicit CpuShared(std::size_t threads) : pool(threads) {}

  BackendInfo info;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  Weights weights;
  FairGate gate;
  ThreadPool pool;
};

/// `shared` lives as long as its last Compute: sessions end in any order.
std::unique_ptr<Compute> make_cpu_compute(std::shared_ptr<CpuShared> shared);

}  // namespace airlock
