#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/tee_runner/naive_backend.h"

namespace airlock {

/// LLaMA's prefill in double, written from the definition and sharing nothing with the driver. No
/// rope scaling.
class ReferenceLlama {
 public:
  explicit ReferenceLlama(const RandomModel& model) : model_(model), dims_(model.config.dims) {}

  /// [tokens, vocab]
  std::vector<double> logits(const std::vector<std::int32_t>& tokens) {
    tokens_ = tokens.size();
    const std::size_t hidden = size(dims_.hidden);
    std::vector<double> x;
    for (const std::int32_t id : tokens) {
      for (std::size_t i = 0; i < hidden; ++i) x.push_back(model_.embedding[size(id) * hidden + i]);
    }
    for (int layer = 0; layer < dims_.layers; ++layer) {
      std::vector<double> h = normalised(x, size(2 * layer));
      std::vector<double> q = linear(h, WeightKind::kQ, layer),
                          k = linear(h, WeightKind::kK, layer);
      rotate(q, size(dims_.heads));
      rotate(k, size(dims_.kv_heads));
      add(x, linear(attend(q, k, linear(h, WeightKind::kV, layer)), WeightKind::kO, layer));
      h = normalised(x, size(2 * layer + 1));
      std::vector<double> gate = linear(h, WeightKind::kGate, layer);
      const std::vector<double> up = linear(h, WeightKind::kUp, layer);
      for (std::size_t i = 0; i < gate.size(); ++i)
        gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      add(x, linear(gate, WeightKind::kDown, layer));
    }
    return times_transposed(normalised(x, size(2 * dims_.layers)), model_.head, tokens_, hidden);
  }

 private:
  static std::size_t size(std::int64_t value) { return static_cast<std::size_t>(value); }
  static void add(std::vector<double>& x, const std::vector<double>& delta) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += delta[i];
  }
  std::vector<double> linear(const std::vector<double>& x, WeightKind kind, int layer) const {
    return times_transposed(x, model_.weights.at({static_cast<int>(kind), layer}), tokens_,
                            x.size() / tokens_);
  }
  std::vector<double> normalised(const std::vector<double>& x, std::size_t norm) const {
    const std::size_t width = size(dims_.hidden);
    std::vector<double> out(x.size());
    for (std::size_t t = 0; t < tokens_; ++t) {
      double sum = 0;
      for (std::size_t i = 0; i < width; ++i) sum += x[t * width + i] * x[t * width + i];
      const double scale =
          1 / std::sqrt(sum / static_cast<double>(width) + model_.config.rms_norm_eps);
      for (std::size_t i = 0; i < width; ++i) {
        out[t * width + i] = x[t * width + i] * scale *
                             static_cast<double>(model_.norms.as<float>()[norm * width + i]);
      }
    }
    return out;
  }
  void rotate(std::vector<double>& x, std::size_t heads) const {
    const std::size_t d = size(dims_.head_dim);
    for (std::size_t i = 0; i < tokens_ * heads; ++i) {
      for (std::size_t c = 0; c < d / 2; ++c) {
        const double angle = static_cast<double>(i / heads) *
                             std::pow(model_.config.rope_theta,
                                      -2.0 * static_cast<double>(c) / static_cast<double>(d));
        double& low = x[i * d + c];
        double& high = x[i * d + c + d / 2];
        const double turned = low * std::cos(angle) - high * std::sin(angle);
        high = high * std::cos(angle) + low * std::sin(angle);
        low = turned;
      }
    }
  }
  std::vector<double> attend(const std::vector<double>& q, const std::vector<double>& k,
                             const std::vector<double>& v) const {
    const std::size_t d = size(dims_.head_dim), heads = size(dims_.heads),
                      groups = size(dims_.kv_heads);
    std::vector<double> out(q.size());
    for (std::size_t i = 0; i < tokens_; ++i) {
      for (std::size_t h = 0; h < heads; ++h) {
        const std::size_t g = h / (heads / groups);
        std::vector<double> p(i + 1);
        double total = 0;
        for (std::size_t j = 0; j <= i; ++j) {
          for (std::size_t c = 0; c < d; ++c)
            p[j] += q[(i * heads + h) * d + c] * k[(j * groups + g) * d + c];
          total += p[j] = std::exp(p[j] / std::sqrt(static_cast<double>(d)));
        }
        for (std::size_t j = 0; j <= i; ++j) {
          for (std::size_t c = 0; c < d; ++c)
            out[(i * heads + h) * d + c] += p[j] / total * v[(j * groups + g) * d + c];
        }
      }
    }
    return out;
  }

  const RandomModel& model_;
  ModelDims dims_;
  std::size_t tokens_ = 0;
};

}  // namespace airlock
