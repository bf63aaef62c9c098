#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "tee_runner/llama/driver.h"
#include "tee_runner/recording.h"

namespace airlock {

inline constexpr ModelDims kTiny{.hidden = 32,
                                 .intermediate = 48,
                                 .layers = 2,
                                 .heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 10,
                                 .vocab = 50};

inline LlamaConfig config_of(const ModelDims& dims) {
  LlamaConfig config;
  config.dims = dims;
  config.rms_norm_eps = 1e-5;
  return config;
}

inline Tensor ones(const ModelDims& dims) {
  Tensor norms({DType::kF32, {2 * dims.layers + 1, dims.hidden}});
  for (float& value : norms.as<float>()) value = 1;
  return norms;
}

inline std::vector<std::int32_t> tokens_of(std::int64_t count, std::int64_t vocab) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>((i * 17 + 3) % vocab));
  return tokens;
}

/// Every result is zero; nothing is computed, and pages that nobody writes take no memory.
class ZeroBackend : public Backend {
 public:
  explicit ZeroBackend(const ModelDims& dims) { info_.dims = dims; }
  const BackendInfo& info() const override { return info_; }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline) override {
    for (const std::uint64_t start_ns = now_ns(); now_ns() - start_ns < prepare_ns;) {
    }
    ASSIGN_OR_RETURN(auto results, op_results(spec, info_.dims));
    return std::unique_ptr<Pending>(std::make_unique<Zero>(*this, spec.inputs, results));
  }
  OpTimes times{.total_ns = 3, .wire_ns = 3};
  std::size_t slots_in_use = 0;
  // That prepare() takes at least.
  std::uint64_t prepare_ns = 0;

 private:
  struct Zeros {
    explicit Zeros(const TensorDesc& tensor)
        : desc(tensor), data(static_cast<std::byte*>(std::calloc(1, tensor.bytes())), &std::free) {}
    TensorDesc desc;
    std::unique_ptr<std::byte, void (*)(void*)> data;
  };
  class Zero : public Pending {
   public:
    Zero(const ZeroBackend& owner, const std::vector<TensorDesc>& inputs,
         const std::vector<TensorDesc>& results)
        : owner_(owner), result_descs_(results) {
      for (const TensorDesc& desc : inputs) inputs_.emplace_back(desc);
      for (const TensorDesc& desc : results) results_.emplace_back(desc);
    }
    MutableTensorView input(std::size_t index) override {
      return {inputs_[index].data.get(), inputs_[index].desc};
    }
    Status submit() override { return {}; }
    bool done() override { return true; }
    Status wait() override { return {}; }
    TensorView result(std::size_t index) const override {
      return {results_[index].data.get(), results_[index].desc};
    }
    std::span<const TensorDesc> result_descs() const override { return result_descs_; }
    OpTimes times() const override { return owner_.times; }
    std::size_t slots_in_use() const override { return owner_.slots_in_use; }

   private:
    const ZeroBackend& owner_;
    std::vector<TensorDesc> result_descs_;
    std::vector<Zeros> inputs_;
    std::vector<Zeros> results_;
  };
  BackendInfo info_;
};

/// What the driver asked a recording backend around `inner` for.
inline std::vector<TraceRecord> record_runs(Backend& inner, const ForwardShape& prompt,
                                            const RecordingOptions& options, int runs,
                                            std::int64_t chunk = 0) {
  std::vector<TraceRecord> records;
  RecordingBackend backend(inner, options,
                           [&](TraceRecord record) { records.push_back(std::move(record)); });
  const ModelDims& dims = inner.info().dims;
  TeeStatsTable stats;
  LlamaOptions llama;
  llama.wire = prompt.wire;
  llama.attention = prompt.attention;
  llama.logits = prompt.logits;
  llama.chunk = chunk;
  llama.tile = prompt.tile;
  llama.max_score_bytes = prompt.max_score_bytes;
  auto driver = LlamaDriver::create(config_of(dims), ones(dims), llama, backend, stats);
  EXPECT_TRUE(driver.ok());
  for (int run = 0; run < runs; ++run) {
    backend.begin_run();
    const auto logits = (*driver)->prefill(tokens_of(prompt.tokens, dims.vocab));
    EXPECT_TRUE(logits.ok()) << logits.status().to_string();
  }
  return records;
}

}  // namespace airlock
