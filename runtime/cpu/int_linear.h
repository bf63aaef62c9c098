#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "proto/op.h"
#include "runtime/compute.h"
#include "runtime/cpu/int8_weights_held.h"
#include "runtime/cpu/onednn.h"
#include "runtime/cpu/sliced_run.h"
#include "runtime/scratch.h"

/// Internal to runtime/cpu.
namespace airlock {

/// What an integer op stands on; all of it is one session's thread's.
struct IntGround {
  onednn::ProductCache& calls;  // of s8
  ScratchPool& scratch;
  SlicedRun& threads;
  std::span<dnnl::stream> streams;  // of each worker
  const HeldInt8& held;
};

/// An int_linear or a pad_linear over its caller's memory, which a peer may change meanwhile: each
/// word of an operand is read once. Rows are taken block by block, so that what lies in between is
/// bounded. What is made of a key (words, digits, their products) is wiped before this returns;
/// where fp64 multiplies, BLIS's own buffers hold some of it until the next product.
/// kInvalidInput: a plane of a weight is not held; else as SlicedRun::run() and WordStream.
/// Throws dnnl::error.
Status multiply_integers(const IntGround& ground, const OpSpec& spec, const OpMemory& memory);

}  // namespace airlock
