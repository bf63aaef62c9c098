#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "base/deadline.h"
#include "base/status.h"
#include "base/tensor.h"
#include "proto/op.h"
#include "runtime/compute.h"
#include "runtime/op_times.h"

namespace airlock {

/// One op, from loan to result: prepared -> submit() -> wait() -> results, until it is destroyed.
/// One thread; must not outlive its backend. Destroying it before wait() abandons the result, never
/// the session.
class Pending {
 public:
  virtual ~Pending() = default;
  /// Where input `index` is to be written before submit(), a block of rows at a time or all at
  /// once.
  virtual MutableTensorView input(std::size_t index) = 0;
  /// The inputs are complete. The op may start.
  virtual Status submit() = 0;
  /// After submit(): whether wait() would return at once. Never waits itself, but moves on what can
  /// be moved on; of a remote op: as far as its replies have been looked at.
  virtual bool done() = 0;
  /// Until the result is there or the op's deadline passes.
  virtual Status wait() = 0;
  /// The results' types and shapes as op_results() gives them. From prepare() on.
  virtual std::span<const TensorDesc> result_descs() const = 0;
  /// After wait() was ok: of the type and shape that result_descs() says, whatever a server
  /// answered. In place, perhaps in memory that the peer can still change: read each byte once.
  virtual TensorView result(std::size_t index) const = 0;
  /// After wait() was ok. Whole: the parts add up.
  virtual OpTimes times() const = 0;
  /// Slots of the ring that were in use at submit(), this op's among them; 0 where there is none.
  virtual std::size_t slots_in_use() const = 0;
};

/// Hands everything on to another Pending, so that a decorator says only what it adds: it derives
/// from this and calls ForwardingPending::submit() and so on.
class ForwardingPending : public Pending {
 public:
  explicit ForwardingPending(std::unique_ptr<Pending> inner) : inner_(std::move(inner)) {}
  MutableTensorView input(std::size_t index) override { return inner_->input(index); }
  Status submit() override { return inner_->submit(); }
  bool done() override { return inner_->done(); }
  Status wait() override { return inner_->wait(); }
  std::span<const TensorDesc> result_descs() const override { return inner_->result_descs(); }
  TensorView result(std::size_t index) const override { return inner_->result(index); }
  OpTimes times() const override { return inner_->times(); }
  std::size_t slots_in_use() const override { return inner_->slots_in_use(); }

 private:
  const std::unique_ptr<Pending> inner_;
};

/// Lends memory for the offloaded ops and has them computed, here (LocalBackend) or by a server
/// (RemoteBackend). Results are rounded once, to nearest even, to spec.result_dtype. One thread a
/// Backend object; several ops may be under way.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual const BackendInfo& info() const = 0;
  /// kInvalidInput where the spec does not fit the model. `deadline` bounds the op from here to its
  /// result.
  virtual Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline deadline) = 0;
};

}  // namespace airlock
