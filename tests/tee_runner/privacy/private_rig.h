#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "runtime/local_backend.h"
#include "tee_runner/llama/driver.h"
#include "tee_runner/privacy/private_backend.h"
#include "tests/support/memory_model.h"

namespace airlock::testing {

/// A backend around another one that sees, and may change, what crosses.
class WireBackend : public Backend {
 public:
  struct Crossed {
    OpSpec spec;
    std::vector<std::vector<std::uint32_t>> inputs;
  };
  explicit WireBackend(Backend& inner) : inner_(inner) {}

  const BackendInfo& info() const override { return inner_.info(); }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline deadline) override {
    if (!refuse.ok()) return refuse;
    ASSIGN_OR_RETURN(auto pending, inner_.prepare(spec, deadline));
    return std::unique_ptr<Pending>(std::make_unique<OnTheWire>(std::move(pending), *this, spec));
  }

  /// Changes an answer: the op's number, from 0, and the words of its results.
  using Lie = std::function<void(std::size_t op, std::vector<std::vector<std::uint32_t>>&)>;
  Lie lie;
  Status refuse;
  std::vector<Crossed> crossed;

 private:
  class OnTheWire : public ForwardingPending {
   public:
    OnTheWire(std::unique_ptr<Pending> inner, WireBackend& owner, OpSpec spec)
        : ForwardingPending(std::move(inner)), owner_(owner), spec_(std::move(spec)) {}
    Status submit() override {
      Crossed seen{spec_, {}};
      for (std::size_t i = 0; i < spec_.inputs.size(); ++i) {
        if (spec_.inputs[i].dtype != DType::kU32) continue;
        const auto words = ForwardingPending::input(i).as<std::uint32_t>();
        seen.inputs.emplace_back(words.begin(), words.end());
      }
      number_ = owner_.crossed.size();
      owner_.crossed.push_back(std::move(seen));
      return ForwardingPending::submit();
    }
    Status wait() override {
      RETURN_IF_ERROR(ForwardingPending::wait());
      for (std::size_t i = 0; i < result_descs().size(); ++i) {
        const auto words = ForwardingPending::result(i).as<std::uint32_t>();
        answers_.emplace_back(words.begin(), words.end());
      }
      if (owner_.lie) owner_.lie(number_, answers_);
      return {};
    }
    TensorView result(std::size_t index) const override {
      return {reinterpret_cast<const std::byte*>(answers_[index].data()), result_descs()[index]};
    }

   private:
    WireBackend& owner_;
    const OpSpec spec_;
    std::size_t number_ = 0;
    std::vector<std::vector<std::uint32_t>> answers_;
  };

  Backend& inner_;
};

inline PrivacyOptions mode_of(PrivacyMode mode, Int8Weights weights = Int8Weights::kW8) {
  PrivacyOptions options;
  options.mode = mode;
  options.int8_weights = weights;
  return options;
}

/// A driver in a private mode, and all that it stands on: the worker and who makes the pads'
/// products are this process, behind wires that a test may look at and lie on.
class PrivateRig {
 public:
  explicit PrivateRig(const ModelSource& source, PrivacyOptions asked, std::size_t threads = 1,
                      std::uint64_t first_epoch = 0)
      : options(std::move(asked)), model(PrivateModel::create(source, options, threads).value()) {
    worker_model_ =
        CpuModel::create_for_int8(source, options.int8_weights, threads, nullptr, {}).value();
    worker_.emplace(worker_model_->make_compute());
    worker.emplace(*worker_);
    pool = ThreadPool::create(threads).value();
    if (masks(options.mode)) {
      products_.emplace(worker_model_->make_compute());
      products.emplace(*products_);
      key = model->secret().draw_key(kPadLabel).value();
      pads = PadMaker::create({model->dims().layers, key, options.pad_bytes}, model->int8(),
                              *products, stats)
                 .value();
    }
    backend = PrivateBackend::create(
                  {*model, options, *worker, pads.get(), &key, *pool, stats, first_epoch})
                  .value();
    driver = LlamaDriver::create(source.config(), read_norms(source).value(),
                                 {.wire = DType::kF32,
                                  .attention = Attention::kTee,
                                  .logits = Logits::kAll,
                                  .threads = threads},
                                 *backend, tee, pool)
                 .value();
  }
  ~PrivateRig() {
    driver.reset();
    backend.reset();
    pads.reset();
  }

  const PrivacyOptions options;
  PrivacyStats stats;
  TeeStatsTable tee;
  std::unique_ptr<PrivateModel> model;
  std::optional<WireBackend> worker;
  std::optional<WireBackend> products;
  PadKey key{};
  std::shared_ptr<ThreadPool> pool;
  std::unique_ptr<PadMaker> pads;
  std::unique_ptr<PrivateBackend> backend;
  std::unique_ptr<LlamaDriver> driver;

 private:
  std::shared_ptr<CpuModel> worker_model_;
  std::optional<LocalBackend> worker_;
  std::optional<LocalBackend> products_;
};

inline std::vector<float> floats(const Tensor& tensor) {
  const auto values = tensor.as<float>();
  return {values.begin(), values.end()};
}

}  // namespace airlock::testing
