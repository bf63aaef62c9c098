#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "base/tensor.h"
#include "proto/op.h"

namespace airlock {

/// What a backend computes with.
struct BackendInfo {
  ModelDims dims;
  DType dtype =
      DType::kF32;  // what weights are rounded to and operands converted to; accumulation is fp32
  DType stored_dtype = DType::kF32;  // the model's stored type
  std::size_t threads = 1;
  std::string device;  // "cpu", "cuda:0 NVIDIA H100"
  std::string digest;  // of the model, hex
};

/// How long the parts of an op took. Local backends: server_ns is the computation, the rest 0.
struct OpTiming {
  std::uint64_t queue_ns = 0;    // waited for a turn
  std::uint64_t server_ns = 0;   // computed
  std::uint64_t tee_ns = 0;      // encoded and checked
  std::uint64_t wire_ns = 0;     // the rest of total_ns
  std::uint64_t total_ns = 0;    // submit to checked reply, also where wait() was called later
  std::size_t slots_in_use = 0;  // of the ring, at submit, this op's among them
  // Of server_ns, by the device's own clock, where they may overlap other ops; 0 on a CPU.
  std::uint64_t copy_in_ns = 0;   // operands to the device
  std::uint64_t compute_ns = 0;   // kernels
  std::uint64_t copy_out_ns = 0;  // results back
};

/// Memory of the caller's for an op's operands and results. An empty span means: the backend
/// provides it.
struct Operands {
  std::span<const TensorView> inputs;
  std::span<const MutableTensorView> results;
};

/// What a caller gives must be just what the spec says, aligned for its type, or nothing at all.
/// kInvalidInput names the tensor. `results` are op_results() of `spec`.
Status check_operands(const Operands& operands, const OpSpec& spec,
                      std::span<const TensorDesc> results);
/// The ids of an embedding, int32 [tokens], read once: the peer may change them between check and
/// use. kInvalidInput names the first one outside [0, vocab).
Result<std::vector<std::int32_t>> read_token_ids(TensorView tensor, std::int64_t vocab);

/// One op, from loan to result: prepared -> submit() -> wait() -> results, until it is destroyed.
/// One thread; must not outlive its backend. Destroying it before wait() abandons the result, never
/// the session.
class Pending {
 public:
  virtual ~Pending() = default;
  /// Where input `index` is to be written before submit(); only where the caller gave no inputs.
  virtual MutableTensorView input(std::size_t index) = 0;
  /// The inputs are complete. The op may start.
  virtual Status submit() = 0;
  /// After submit(): whether wait() would return at once. Never waits itself, but moves on what can
  /// be moved on; of a remote op: as far as its replies have been looked at.
  virtual bool done() = 0;
  /// Until the result is there or the op's deadline passes.
  virtual Status wait() = 0;
  /// After wait() was ok. In place, perhaps in memory that the peer can still change: read each
  /// byte once.
  virtual TensorView result(std::size_t index) const = 0;
  virtual OpTiming timing() const = 0;
};

/// Computes the offloaded ops (embedding, batch_linear, matmul, lm_head). Results are rounded once,
/// to nearest even, to spec.result_dtype. One thread a Backend object; several ops may be under
/// way.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual const BackendInfo& info() const = 0;
  /// kInvalidInput where the spec does not fit the model. `deadline` bounds the op from here to its
  /// result.
  virtual Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, const Operands& operands,
                                                   Deadline deadline) = 0;
};

}  // namespace airlock
