#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "base/tensor.h"
#include "proto/op.h"
#include "runtime/op_times.h"

namespace airlock {

class ModelSource;
struct Int8Line;
struct ModelShare;

/// What ops are computed with.
struct BackendInfo {
  // ModelDims::is_none(): matmul alone.
  ModelDims dims;
  // What weights are rounded to and operands converted to; accumulation is fp32.
  DType dtype = DType::kF32;
  // The model's stored type.
  DType stored_dtype = DType::kF32;
  std::size_t threads = 1;
  // "cpu", "cuda:0 NVIDIA H100".
  std::string device;
  bool on_cpu() const { return device == "cpu"; }
  // Of the model, hex; of a share of it empty.
  std::string digest;
  // What multiplies fp64, "BLIS 0.9.0"; empty: nothing does, and such a matmul fails.
  std::string fp64_products = {};
};

/// The memory of one op, all of it the caller's: inputs as spec.inputs says, results as
/// op_results() says, each tensor aligned for its type.
struct OpMemory {
  std::vector<TensorView> inputs;
  std::vector<MutableTensorView> results;
  // Of each result [rows, columns] the bytes from one row to the next: it is columns of a wider
  // one, of which nothing else is touched. 0: dense; empty: all are. What computes on a CPU takes
  // dense results alone (CHECKed): its products would have other bits.
  std::vector<std::size_t> pitches = {};

  bool is_dense(std::size_t result) const { return pitches.empty() || pitches[result] == 0; }
  /// Bytes from one row (of the first dimension) to the next.
  std::size_t result_pitch(std::size_t result) const {
    const TensorDesc& desc = results[result].desc;
    if (!is_dense(result)) return pitches[result];
    return desc.bytes() / static_cast<std::size_t>(desc.shape[0]);
  }
  /// From the first byte to the last.
  std::size_t result_extent(std::size_t result) const {
    const TensorDesc& desc = results[result].desc;
    if (is_dense(result)) return desc.bytes();
    const auto rows = static_cast<std::size_t>(desc.shape[0]);
    return (rows - 1) * pitches[result] + desc.bytes() / rows;
  }
};

/// How long an op is worth its work. A Deadline is one too.
struct OpLife {
  OpLife(Deadline until, std::function<Status()> check = {})  // NOLINT: implicit by intent
      : deadline(until), still_wanted(std::move(check)) {}

  /// kDeadlineExceeded, or what still_wanted says.
  Status check() const {
    if (deadline.expired()) return {StatusCode::kDeadlineExceeded, "the op's deadline passed"};
    return still_wanted ? still_wanted() : Status();
  }

  Deadline deadline;
  // May be empty. Not ok: nobody waits for the result any more, and why. Asked on the op's own
  // thread, seldom.
  std::function<Status()> still_wanted;
};

/// What each Compute makes sure of before it takes an op; a fault is the caller's bug (CHECKed).
void check_memory(const OpSpec& spec, const OpMemory& memory);
/// The ids of an embedding, int32 [tokens], read once: the peer may change them between check and
/// use. kInvalidInput names the first one outside [0, vocab).
Result<std::vector<std::int32_t>> read_token_ids(TensorView tensor, std::int64_t vocab);

/// One op over its caller's memory: prepared -> submit() -> wait(). It may read and write that
/// memory until it is destroyed, which waits for a device that is not through with it. One thread;
/// must not outlive its Compute.
class Computation {
 public:
  virtual ~Computation() = default;
  /// The inputs are complete. The op may start.
  virtual Status submit() = 0;
  /// After submit(): whether wait() would return at once. Never waits itself, but moves on what can
  /// be moved on.
  virtual bool done() = 0;
  /// Until the results are written or the op's life is over.
  virtual Status wait() = 0;
  /// After wait() was ok: from submit() to the end. Nothing is the TEE's here; parts add up.
  virtual OpTimes times() const = 0;
};

/// Computes the offloaded ops (those that is_computed() names) over memory that it is
/// given. Results are rounded once, to nearest even, to spec.result_dtype. One thread a Compute
/// object; several ops may be under way.
class Compute {
 public:
  virtual ~Compute() = default;
  virtual const BackendInfo& info() const = 0;
  /// `spec` is one that op_results() takes for info().dims: nobody judges it again. Where a share
  /// of the model is held, kInvalidInput unless it and the results are as share_results() says.
  /// `life` bounds the op from here to its results; a CPU stops within a slice of time once it is
  /// over, a device at the deadline.
  virtual Result<std::unique_ptr<Computation>> prepare(const OpSpec& spec, OpMemory memory,
                                                       const OpLife& life) = 0;
};

/// How a model is loaded.
struct LoadOptions {
  DType dtype = DType::kF32;
  // On a CPU compute threads in all, shared op by op among the Computes made from one model; on a
  // GPU for reading the model.
  std::size_t threads = 1;
  /// Called now and then while weights load: bytes done, bytes in all. May be empty.
  std::function<void(std::size_t done_bytes, std::size_t total_bytes)> progress;
  /// What of the model is loaded (runtime/placement); null: all of it. Else no digest is made
  /// (BackendInfo's is empty), results have the share's columns (share_results()), and ops on
  /// weights that are not held are refused.
  const ModelShare* share = nullptr;
};

/// Bytes of int8 weights made and in all, on the thread that asked for them.
using Int8Progress = std::function<void(std::size_t done_bytes, std::size_t total_bytes)>;

/// A model's weights, held by whatever computes with them: this machine's CPU (runtime/cpu) or a
/// GPU (gpu_server/cuda). Thread-safe once made; shared by the Computes of all sessions, which keep
/// it alive (shared_ptr: sessions end in any order).
class ComputeModel {
 public:
  virtual ~ComputeModel() = default;
  virtual const BackendInfo& info() const = 0;
  /// For one session's thread. `segments` is memory of this process where most operands and results
  /// will lie (the session's rings); it outlives the Compute, which may make it known to a device.
  /// kResourceExhausted, kDevice.
  virtual Result<std::unique_ptr<Compute>> make_compute(
      std::span<const std::span<std::byte>> segments) = 0;
  /// Makes the int8 weights that int_linear and pad_linear need, where they are not there yet, and
  /// gives their digest (runtime/exact/int8_weights.h). Takes seconds the first time, and a byte a
  /// weight and plane from then on; a second asker waits for the first. `model` is the one that
  /// this was made from. kInvalidInput: there is none, or a weight is not finite. Any thread.
  /// `progress` as LoadOptions::progress, of this making; may be empty.
  /// kInvalidInput too where a share is held that has nothing of some linear.
  virtual Result<std::string> prepare_int8(const ModelSource& model, Int8Weights weights,
                                           const Int8Progress& progress) = 0;
  /// The same where a share may be held: makes the linears of each layer that it has some of (and
  /// reads these alone), holds its rows of them, and gives the line of each linear that was made,
  /// for join_int8_lines(). Of a whole model: of all.
  virtual Result<std::vector<Int8Line>> prepare_int8_share(const ModelSource& model,
                                                           Int8Weights weights,
                                                           const Int8Progress& progress) = 0;
  /// Ok until the device fails for good; then kDevice with what happened, and no op will ever work
  /// again. Any thread.
  virtual Status health() const = 0;
};

}  // namespace airlock
