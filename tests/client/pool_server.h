#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <utility>

#include "runtime/exact/int8_weights.h"
#include "tests/gpu_server/server_rig.h"

namespace airlock::testing {

/// Multiplies as a CPU does, but for one op.
class FlakyModel : public ComputeModel {
 public:
  explicit FlakyModel(std::shared_ptr<ComputeModel> inner) : inner_(std::move(inner)) {}
  /// The next op fails by itself.
  void fail_next() { fails_ = true; }

  const BackendInfo& info() const override { return inner_->info(); }
  Result<std::unique_ptr<Compute>> make_compute(
      std::span<const std::span<std::byte>> segments) override {
    ASSIGN_OR_RETURN(auto compute, inner_->make_compute(segments));
    return std::unique_ptr<Compute>(std::make_unique<FlakyCompute>(*this, std::move(compute)));
  }
  Result<std::string> prepare_int8(const ModelSource& model, Int8Weights weights,
                                   const Int8Progress& progress) override {
    return inner_->prepare_int8(model, weights, progress);
  }
  Result<std::vector<Int8Line>> prepare_int8_share(const ModelSource& model, Int8Weights weights,
                                                   const Int8Progress& progress) override {
    return inner_->prepare_int8_share(model, weights, progress);
  }
  Status health() const override { return inner_->health(); }

 private:
  class FlakyCompute : public Compute {
   public:
    FlakyCompute(FlakyModel& model, std::unique_ptr<Compute> inner)
        : model_(model), inner_(std::move(inner)) {}
    const BackendInfo& info() const override { return inner_->info(); }
    Result<std::unique_ptr<Computation>> prepare(const OpSpec& spec, OpMemory memory,
                                                 const OpLife& life) override {
      if (model_.fails_.exchange(false))
        return Status(StatusCode::kResourceExhausted, "it was to fail");
      return inner_->prepare(spec, std::move(memory), life);
    }

   private:
    FlakyModel& model_;
    const std::unique_ptr<Compute> inner_;
  };

  const std::shared_ptr<ComputeModel> inner_;
  std::atomic<bool> fails_{false};
};

/// A server without a model: a pool of slots of 1 MiB, of which one session has at most two of each
/// use.
class PoolServer {
 public:
  static constexpr std::uint64_t kSlot = 1 << 20;

  explicit PoolServer(const std::string& endpoint = {},
                      std::optional<std::uint32_t> path_limit = {}, std::uint32_t slot = 65536) {
    options_.endpoint = endpoint.empty() ? "ipc://" + directory_.file("ctl") : endpoint;
    options_.no_model = true;
    options_.ring.slot_count = 8;
    options_.ring.slot_bytes = slot;
    options_.path_limit = path_limit;
    options_.pool = {PoolMode::kShape, {kSlot, {{8, 8, 8}}, 0}, PoolCommit::kLazy};
    ServedModel served;
    served.compute = model_;
    server_ = std::make_unique<RunningServer>(options_, std::move(served));
  }
  const std::string& endpoint() const { return options_.endpoint; }
  FlakyModel& model() { return *model_; }
  void stop() { EXPECT_TRUE(server_->stop().ok()); }

 private:
  TempDir directory_;
  ServerOptions options_;
  std::shared_ptr<FlakyModel> model_ =
      std::make_shared<FlakyModel>(CpuModel::create_without_weights(1).value());
  std::unique_ptr<RunningServer> server_;
};

}  // namespace airlock::testing
