#include "runtime/local_backend.h"

#include <vector>

#include "base/check.h"

namespace airlock {

namespace {

/// An op's loans, inputs before results.
struct Loans {
  std::vector<ScratchPool::Buffer> buffers;
  std::vector<MutableTensorView> inputs;
  std::vector<MutableTensorView> results;
  std::vector<TensorDesc> result_descs;
};

class LocalPending : public Pending {
 public:
  LocalPending(Loans loans, std::unique_ptr<Computation> computation, std::uint64_t prepare_ns)
      : loans_(std::move(loans)), computation_(std::move(computation)), prepare_ns_(prepare_ns) {}

  MutableTensorView input(std::size_t index) override {
    CHECK(index < loans_.inputs.size() && !submitted_);
    return loans_.inputs[index];
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
  std::span<const TensorDesc> result_descs() const override { return loans_.result_descs; }
  TensorView result(std::size_t index) const override {
    CHECK(index < loans_.results.size() && has_results_);
    return loans_.results[index];
  }
  OpTimes times() const override {
    OpTimes times = computation_->times();
    times.total_ns += prepare_ns_;
    balance(times);
    return times;
  }
  std::size_t slots_in_use() const override { return 0; }

 private:
  // In this order: a device may use the loans until the computation is gone.
  Loans loans_;
  std::unique_ptr<Computation> computation_;
  std::uint64_t prepare_ns_;
  bool submitted_ = false;
  bool has_results_ = false;
};

Status take(ScratchPool& pool, std::span<const TensorDesc> descs,
            std::vector<ScratchPool::Buffer>& buffers, std::vector<MutableTensorView>& views) {
  for (const TensorDesc& desc : descs) {
    ASSIGN_OR_RETURN(ScratchPool::Buffer buffer, pool.take(desc.bytes()));
    views.push_back({buffer.data(), desc});
    buffers.push_back(std::move(buffer));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Pending>> LocalBackend::prepare(const OpSpec& spec, Deadline deadline) {
  const std::uint64_t start_ns = now_ns();
  Loans loans;
  ASSIGN_OR_RETURN(loans.result_descs, op_results(spec, info().dims));
  if (!is_computed(spec.op)) {
    return Status(StatusCode::kInvalidInput, "{} is not computed by a backend", name_of(spec.op));
  }
  RETURN_IF_ERROR(take(scratch_, spec.inputs, loans.buffers, loans.inputs));
  RETURN_IF_ERROR(take(scratch_, loans.result_descs, loans.buffers, loans.results));
  ASSIGN_OR_RETURN(
      auto computation,
      compute_->prepare(spec, {{loans.inputs.begin(), loans.inputs.end()}, loans.results},
                        deadline));
  return std::unique_ptr<Pending>(std::make_unique<LocalPending>(
      std::move(loans), std::move(computation), now_ns() - start_ns));
}

}  // namespace airlock
