#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/convert.h"
#include "base/deadline.h"
#include "runtime/backend.h"
#include "runtime/scratch.h"

namespace airlock::bench {

/// Finite numbers between -1 and 1, the same each time. A float type.
inline void fill_floats(MutableTensorView view) {
  std::vector<float> block(4096);
  std::uint32_t state = 1;
  for (float& value : block) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<float>(state >> 8) / static_cast<float>(1U << 23) - 1.0F;
  }
  const std::size_t width = dtype_bytes(view.desc.dtype);
  const std::size_t count = view.desc.elements();
  for (std::size_t i = 0; i < count; i += block.size()) {
    store_f32(view.desc.dtype, block.data(), view.data + i * width,
              std::min(block.size(), count - i));
  }
}

/// A backend that answers at once: submit() and wait() do nothing, results are fixed numbers of the
/// type and shape that op_results() gives, made when such a result is first asked for. Results of
/// one shape lie in one of kPlaces places in turn, so that a pass does not find them in its caches
/// because the last op had them. What it costs is in spent_ns(). One thread.
class NullBackend : public Backend {
 public:
  static constexpr std::size_t kPlaces = 4;

  explicit NullBackend(const ModelDims& dims) {
    info_.dims = dims;
    info_.device = "none";
  }
  const BackendInfo& info() const override { return info_; }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline) override {
    const std::uint64_t start_ns = now_ns();
    ASSIGN_OR_RETURN(std::vector<TensorDesc> results, op_results(spec, info_.dims));
    auto pending = std::make_unique<Answered>();
    for (const TensorDesc& input : spec.inputs) {
      ASSIGN_OR_RETURN(ScratchPool::Buffer buffer, inputs_.take(input.bytes()));
      pending->inputs.push_back({buffer.data(), input});
      pending->buffers.push_back(std::move(buffer));
    }
    for (const TensorDesc& result : results) pending->results.push_back(answer(result));
    pending->descs = std::move(results);
    spent_ns_ += now_ns() - start_ns;
    return std::unique_ptr<Pending>(std::move(pending));
  }
  /// All that prepare() took so far.
  std::uint64_t spent_ns() const { return spent_ns_; }

 private:
  struct Answered : Pending {
    MutableTensorView input(std::size_t index) override { return inputs[index]; }
    Status submit() override { return {}; }
    bool done() override { return true; }
    Status wait() override { return {}; }
    std::span<const TensorDesc> result_descs() const override { return descs; }
    TensorView result(std::size_t index) const override { return results[index]; }
    OpTimes times() const override { return {}; }
    std::size_t slots_in_use() const override { return 0; }

    std::vector<ScratchPool::Buffer> buffers;
    std::vector<MutableTensorView> inputs;
    std::vector<TensorView> results;
    std::vector<TensorDesc> descs;
  };
  struct Answers {
    std::vector<Tensor> places;
    std::size_t next = 0;
  };

  TensorView answer(const TensorDesc& desc) {
    const std::string key = std::string(name_of(desc.dtype)) + desc.shape.to_string();
    Answers& answers = answers_[key];
    while (answers.places.size() < kPlaces) {
      answers.places.emplace_back(desc);
      fill_floats(answers.places.back().mutable_view());
    }
    return answers.places[answers.next++ % kPlaces].view();
  }

  BackendInfo info_;
  ScratchPool inputs_;
  std::map<std::string, Answers> answers_;
  std::uint64_t spent_ns_ = 0;
};

}  // namespace airlock::bench
