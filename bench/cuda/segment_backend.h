#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/page_buffer.h"
#include "bench/cuda/check.h"
#include "runtime/backend.h"

namespace airlock::bench {

/// Memory of a fixed size that is given out first fit. It outlives what it gave. One thread.
class Segment {
 public:
  explicit Segment(std::size_t bytes) : pages_(PageBuffer::allocate(bytes).value()) {}
  std::span<std::byte> bytes() const { return {pages_.data(), pages_.bytes()}; }
  std::byte* take(std::size_t bytes) {
    constexpr std::size_t kPage = 4096;
    bytes = (bytes + kPage - 1) / kPage * kPage;
    std::size_t offset = 0;
    for (const auto& [begin, end] : used_) {
      if (begin - offset >= bytes) break;
      offset = end;
    }
    if (bytes > pages_.bytes() - offset) fail("the ops' memory", "the segment is too small");
    used_[offset] = offset + bytes;
    return pages_.data() + offset;
  }
  void give_back(const std::byte* data) {
    used_.erase(static_cast<std::size_t>(data - pages_.data()));
  }

 private:
  PageBuffer pages_;
  std::map<std::size_t, std::size_t> used_;  // begin -> end
};

/// As LocalBackend, with its loans in a segment that the device knows: what a server has by its
/// ring, and LocalBackend has not. One thread.
class SegmentBackend : public Backend {
 public:
  /// `compute` was made with the segment.
  SegmentBackend(std::unique_ptr<Compute> compute, Segment& segment)
      : compute_(std::move(compute)), segment_(segment) {}
  const BackendInfo& info() const override { return compute_->info(); }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline deadline) override {
    ASSIGN_OR_RETURN(std::vector<TensorDesc> results, op_results(spec, info().dims));
    auto pending = std::make_unique<SegmentPending>(segment_, spec, std::move(results));
    RETURN_IF_ERROR(pending->begin(*compute_, spec, deadline));
    return std::unique_ptr<Pending>(std::move(pending));
  }

 private:
  class SegmentPending : public Pending {
   public:
    SegmentPending(Segment& segment, const OpSpec& spec, std::vector<TensorDesc> results)
        : segment_(segment), result_descs_(std::move(results)) {
      for (const TensorDesc& desc : spec.inputs)
        inputs_.push_back({segment_.take(desc.bytes()), desc});
      for (const TensorDesc& desc : result_descs_)
        results_.push_back({segment_.take(desc.bytes()), desc});
    }
    ~SegmentPending() override {
      computation_.reset();
      for (const auto* views : {&inputs_, &results_}) {
        for (const MutableTensorView& view : *views) segment_.give_back(view.data);
      }
    }
    Status begin(Compute& compute, const OpSpec& spec, Deadline deadline) {
      ASSIGN_OR_RETURN(
          computation_,
          compute.prepare(spec, {{inputs_.begin(), inputs_.end()}, results_}, deadline));
      return {};
    }
    MutableTensorView input(std::size_t index) override { return inputs_[index]; }
    Status submit() override { return computation_->submit(); }
    bool done() override { return computation_->done(); }
    Status wait() override { return computation_->wait(); }
    std::span<const TensorDesc> result_descs() const override { return result_descs_; }
    TensorView result(std::size_t index) const override { return results_[index]; }
    OpTimes times() const override { return computation_->times(); }
    std::size_t slots_in_use() const override { return 0; }

   private:
    Segment& segment_;
    std::vector<TensorDesc> result_descs_;
    std::vector<MutableTensorView> inputs_;
    std::vector<MutableTensorView> results_;
    std::unique_ptr<Computation> computation_;
  };

  std::unique_ptr<Compute> compute_;
  Segment& segment_;
};

}  // namespace airlock::bench
