#include "runtime/local_backend.h"

#include <vector>

#include "base/check.h"

namespace airlock {

namespace {

class LocalPending : public Pending {
 public:
  /// First of all; where it fails the object is of no use.
  Status prepare(Compute& compute, ScratchPool& scratch, const OpSpec& spec, Deadline deadline) {
    const std::uint64_t start_ns = now_ns();
    ASSIGN_OR_RETURN(result_descs_, op_results(spec, compute.info().dims));
    if (!is_computed(spec.op))
      return {StatusCode::kInvalidInput, "{} is not computed by a backend", name_of(spec.op)};
    RETURN_IF_ERROR(borrow(scratch, spec.inputs, inputs_));
    RETURN_IF_ERROR(borrow(scratch, result_descs_, results_));
    ASSIGN_OR_RETURN(computation_,
                     compute.prepare(spec, {{inputs_.begin(), inputs_.end()}, results_}, deadline));
    prepare_ns_ = now_ns() - start_ns;
    return {};
  }

  MutableTensorView input(std::size_t index) override {
    CHECK(index < inputs_.size() && !submitted_);
    return inputs_[index];
  }
  Status submit() override {
    submitted_ = true;
    return computation_->submit();
  }
  bool done() override { return computation_->done(); }
  Status wait() override {
    Status status = computation_->wait();
    has_results_ = status.ok();
    return status;
  }
  std::span<const TensorDesc> result_descs() const override { return result_descs_; }
  TensorView result(std::size_t index) const override {
    CHECK(index < results_.size() && has_results_);
    return results_[index];
  }
  OpTimes times() const override {
    OpTimes times = computation_->times();
    times.total_ns += prepare_ns_;
    balance(times);
    return times;
  }
  std::size_t slots_in_use() const override { return 0; }

 private:
  Status borrow(ScratchPool& scratch, std::span<const TensorDesc> descs,
                std::vector<MutableTensorView>& views) {
    for (const TensorDesc& desc : descs) {
      ASSIGN_OR_RETURN(ScratchPool::Buffer buffer, scratch.take(desc.bytes()));
      views.push_back({buffer.data(), desc});
      buffers_.push_back(std::move(buffer));
    }
    return {};
  }

  // Before the computation: a device may use them until that is gone.
  std::vector<ScratchPool::Buffer> buffers_;
  std::vector<MutableTensorView> inputs_;
  std::vector<MutableTensorView> results_;
  std::vector<TensorDesc> result_descs_;
  std::unique_ptr<Computation> computation_;
  std::uint64_t prepare_ns_ = 0;
  bool submitted_ = false;
  bool has_results_ = false;
};

}  // namespace

Result<std::unique_ptr<Pending>> LocalBackend::prepare(const OpSpec& spec, Deadline deadline) {
  auto pending = std::make_unique<LocalPending>();
  RETURN_IF_ERROR(pending->prepare(*compute_, scratch_, spec, deadline));
  return std::unique_ptr<Pending>(std::move(pending));
}

}  // namespace airlock
