#pragma once

#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/convert.h"
#include "base/int8_rows.h"
#include "runtime/backend.h"
#include "runtime/model/config.h"

namespace airlock {

/// A random LLaMA, held as doubles that fp32 represents exactly.
struct RandomModel {
  LlamaConfig config;
  std::map<std::pair<int, int>, std::vector<double>> weights;  // (kind, layer) -> [out, in]
  std::vector<double> embedding;                               // [vocab, hidden]
  std::vector<double> head;                                    // [vocab, hidden]
  Tensor norms;                                                // fp32 [2 * layers + 1, hidden]

  explicit RandomModel(const LlamaConfig& llama, unsigned seed = 1) : config(llama) {
    std::mt19937 engine(seed);
    const auto draw = [&](std::size_t count, double spread) {
      std::normal_distribution<double> normal(0.0, spread);
      std::vector<double> values(count);
      for (double& value : values) value = static_cast<double>(static_cast<float>(normal(engine)));
      return values;
    };
    const ModelDims& dims = config.dims;
    for (int layer = 0; layer < dims.layers; ++layer) {
      for (int kind = 1; kind <= 7; ++kind) {
        const Shape shape = weight_shape(dims, static_cast<WeightKind>(kind));
        weights[{kind, layer}] =
            draw(*shape.element_count(), 1.0 / std::sqrt(static_cast<double>(shape[1])));
      }
    }
    const auto rows = static_cast<std::size_t>(dims.vocab * dims.hidden);
    embedding = draw(rows, 1.0);
    head = draw(rows, 1.0 / std::sqrt(static_cast<double>(dims.hidden)));
    norms = Tensor({DType::kF32, {2 * dims.layers + 1, dims.hidden}});
    const std::vector<double> noise = draw(norms.desc().elements(), 0.1);
    for (std::size_t i = 0; i < noise.size(); ++i)
      norms.as<float>()[i] = 1.0F + static_cast<float>(noise[i]);
  }
};

/// y [rows, out] = x [rows, in] * w^T, in double.
inline std::vector<double> times_transposed(const std::vector<double>& x,
                                            const std::vector<double>& w, std::size_t rows,
                                            std::size_t in) {
  const std::size_t out = w.size() / in;
  std::vector<double> y(rows * out);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t o = 0; o < out; ++o) {
      for (std::size_t i = 0; i < in; ++i) y[r * out + o] += x[r * in + i] * w[o * in + i];
    }
  }
  return y;
}

/// The four ops by their definition, slowly; owns its operands. Counts calls; `tamper` may change
/// results.
class NaiveBackend : public Backend {
 public:
  explicit NaiveBackend(const RandomModel& model) : model_(model) {
    info_.dims = model.config.dims;
    info_.device = "naive";
  }
  const BackendInfo& info() const override { return info_; }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline) override {
    ASSIGN_OR_RETURN(auto results, op_results(spec, info_.dims));
    ++calls[spec.op];
    if (fail_op == spec.op) return failure;
    return std::unique_ptr<Pending>(std::make_unique<Naive>(*this, spec, results));
  }

  std::map<Op, int> calls;
  Op fail_op = Op::kPing;
  Status failure{StatusCode::kUnavailable, "the server died"};
  std::function<void(Op, std::vector<double>&)> tamper;

 private:
  class Naive : public Pending {
   public:
    Naive(NaiveBackend& owner, const OpSpec& spec, const std::vector<TensorDesc>& results)
        : owner_(owner), spec_(spec), result_descs_(results) {
      for (const TensorDesc& desc : spec.inputs) inputs_.emplace_back(desc);
      for (const TensorDesc& desc : results) results_.emplace_back(desc);
    }
    MutableTensorView input(std::size_t index) override { return inputs_[index].mutable_view(); }
    Status submit() override { return {}; }
    bool done() override { return true; }
    Status wait() override {
      for (std::size_t i = 0; i < results_.size(); ++i) {
        std::vector<double> values = compute(i);
        if (owner_.tamper) owner_.tamper(spec_.op, values);
        const std::vector<float> rounded(values.begin(), values.end());
        const MutableTensorView out = results_[i].mutable_view();
        if (out.desc.dtype == DType::kI8) {
          const auto* bytes = reinterpret_cast<const std::byte*>(rounded.data());
          store_int8_rows({bytes, widened(out.desc)}, out);
        } else {
          store_f32(out.desc.dtype, rounded.data(), out.data, rounded.size());
        }
      }
      return {};
    }
    TensorView result(std::size_t index) const override { return results_[index].view(); }
    std::span<const TensorDesc> result_descs() const override { return result_descs_; }
    OpTimes times() const override {
      return {.total_ns = 10, .wire_ns = 7, .queue_ns = 1, .server_ns = 2};
    }
    std::size_t slots_in_use() const override { return 0; }

   private:
    std::vector<double> operand(std::size_t index) const {
      if (inputs_[index].desc().dtype == DType::kI8) {
        Tensor rows(widened(inputs_[index].desc()));
        load_int8_rows(inputs_[index].view(), rows.mutable_view());
        const auto numbers = rows.as<float>();
        return {numbers.begin(), numbers.end()};
      }
      std::vector<float> values(inputs_[index].desc().elements());
      load_f32(inputs_[index].desc().dtype, inputs_[index].view().data, values.data(),
               values.size());
      return {values.begin(), values.end()};
    }
    std::vector<double> compute(std::size_t index) const {
      const RandomModel& model = owner_.model_;
      const auto hidden = static_cast<std::size_t>(model.config.dims.hidden);
      if (spec_.op == Op::kEmbedding) {
        std::vector<double> rows;
        for (const std::int32_t id : inputs_[0].as<std::int32_t>()) {
          const auto at = model.embedding.begin() + id * model.config.dims.hidden;
          rows.insert(rows.end(), at, at + model.config.dims.hidden);
        }
        return rows;
      }
      const auto rows = static_cast<std::size_t>(inputs_[0].desc().shape[0]);
      if (spec_.op == Op::kLmHead) return times_transposed(operand(0), model.head, rows, hidden);
      if (spec_.op == Op::kBatchLinear) {
        const WeightId& id = spec_.weights[index];
        return times_transposed(operand(0), model.weights.at({static_cast<int>(id.kind), id.layer}),
                                rows,
                                static_cast<std::size_t>(wire_width(inputs_[0].desc().dtype,
                                                                    inputs_[0].desc().shape[1])));
      }
      return multiply();
    }
    std::vector<double> multiply() const {
      const std::vector<double> a = operand(0), b = operand(1);
      const Shape& as = inputs_[0].desc().shape;
      const auto heads = static_cast<std::size_t>(as[0]), m = static_cast<std::size_t>(as[1]);
      const auto k = static_cast<std::size_t>(as[2]),
                 groups = static_cast<std::size_t>(inputs_[1].desc().shape[0]);
      const bool turned = spec_.transpose == Transpose::kB;
      const auto n = static_cast<std::size_t>(inputs_[1].desc().shape[turned ? 1 : 2]);
      std::vector<double> c(heads * m * n);
      for (std::size_t h = 0; h < heads; ++h) {
        const std::size_t g = h / (heads / groups);
        for (std::size_t i = 0; i < m; ++i) {
          for (std::size_t j = 0; j < n; ++j) {
            for (std::size_t x = 0; x < k; ++x) {
              c[(h * m + i) * n + j] +=
                  a[(h * m + i) * k + x] * b[g * k * n + (turned ? j * k + x : x * n + j)];
            }
          }
        }
      }
      return c;
    }

    NaiveBackend& owner_;
    OpSpec spec_;
    std::vector<TensorDesc> result_descs_;
    std::vector<Tensor> inputs_;
    std::vector<Tensor> results_;
  };

  const RandomModel& model_;
  BackendInfo info_;
};

}  // namespace airlock
