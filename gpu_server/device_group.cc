#include "gpu_server/device_group.h"

#include <fmt/format.h>

#include <atomic>
#include <utility>

#include "base/check.h"
#include "base/patience.h"
#include "gpu_server/op_parts.h"
#include "proto/limits.h"
#include "runtime/exact/int8_weights.h"

namespace airlock {

namespace {

constexpr int kSpins = 2000;

/// What all sessions share.
struct Shared {
  DeviceGroupGround ground;
  BackendInfo info;
  std::atomic<std::size_t> next_device{0};
};

/// All parts at once; its server_ns is that of the slowest.
class DeviceGroupComputation : public Computation {
 public:
  DeviceGroupComputation(std::vector<std::unique_ptr<Computation>> parts, Deadline deadline)
      : deadline_(deadline) {
    for (auto& part : parts) parts_.push_back({std::move(part), false});
  }

  Status submit() override {
    start_ns_ = now_ns();
    for (const Part& part : parts_) RETURN_IF_ERROR(part.computation->submit());
    return {};
  }

  // Each device moves on, whatever the others do.
  bool done() override {
    bool all = true;
    for (Part& part : parts_) {
      // Asked in any case: a device moves on by it, also what is behind this op.
      const bool is_over = part.computation->done();
      if (is_over && !part.over) end(part);
      all = all && part.over;
    }
    return all || !status_.ok();
  }

  Status wait() override {
    for (Patience patience(kSpins); !done(); patience.pause()) {
      if (!deadline_.expired()) continue;
      // Which says so.
      for (const Part& part : parts_) {
        if (!part.over) RETURN_IF_ERROR(part.computation->wait());
      }
    }
    RETURN_IF_ERROR(status_);
    end_parts(times_, now_ns() - start_ns_);
    return {};
  }

  OpTimes times() const override { return times_; }

 private:
  struct Part {
    std::unique_ptr<Computation> computation;
    bool over = false;
  };

  void end(Part& part) {
    part.over = true;
    const Status status = part.computation->wait();
    if (status.ok()) take_slowest(times_, part.computation->times());
    if (status_.ok()) status_ = status;
  }

  std::vector<Part> parts_;
  const Deadline deadline_;
  Status status_;
  OpTimes times_;
  std::uint64_t start_ns_ = 0;
};

class DeviceGroupCompute : public Compute {
 public:
  DeviceGroupCompute(std::shared_ptr<Shared> shared, std::vector<std::unique_ptr<Compute>> devices)
      : shared_(std::move(shared)), devices_(std::move(devices)) {}

  const BackendInfo& info() const override { return shared_->info; }

  Result<std::unique_ptr<Computation>> prepare(const OpSpec& spec, OpMemory memory,
                                               const OpLife& life) override {
    check_memory(spec, memory);
    const auto& share = shared_->ground.share;
    if (share) RETURN_IF_ERROR(check_share_results(spec, info().dims, *share, memory.results));
    std::vector<std::unique_ptr<Computation>> parts;
    for (const OpPart& part : parts_of(spec, memory)) {
      ASSIGN_OR_RETURN(parts.emplace_back(),
                       devices_[part.rank]->prepare(part.spec, part_memory(part, memory), life));
    }
    return std::unique_ptr<Computation>(
        std::make_unique<DeviceGroupComputation>(std::move(parts), life.deadline));
  }

 private:
  std::vector<OpPart> parts_of(const OpSpec& spec, const OpMemory& memory) {
    if (spec.op == Op::kMatmul) {
      const std::size_t turn = shared_->next_device.fetch_add(1, std::memory_order_relaxed);
      return {whole_part(turn % devices_.size(), spec, memory)};
    }
    CHECK(shared_->ground.placement.has_value());
    return shared_->ground.placement->split(spec);
  }

  const std::shared_ptr<Shared> shared_;  // outlives the Computes
  const std::vector<std::unique_ptr<Compute>> devices_;
};

class DeviceGroupModel : public ComputeModel {
 public:
  explicit DeviceGroupModel(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  const BackendInfo& info() const override { return shared_->info; }
  Result<std::unique_ptr<Compute>> make_compute(
      std::span<const std::span<std::byte>> segments) override {
    std::vector<std::unique_ptr<Compute>> computes;
    for (const auto& device : devices()) {
      ASSIGN_OR_RETURN(computes.emplace_back(), device->make_compute(segments));
    }
    return std::unique_ptr<Compute>(
        std::make_unique<DeviceGroupCompute>(shared_, std::move(computes)));
  }
  Result<std::string> prepare_int8(const ModelSource& model, Int8Weights weights,
                                   const Int8Progress& progress) override {
    ASSIGN_OR_RETURN(const std::vector<Int8Line> lines,
                     prepare_int8_share(model, weights, progress));
    return join_int8_lines(weights, info().dims, lines);
  }
  // One device after the other: each reads the model.
  Result<std::vector<Int8Line>> prepare_int8_share(const ModelSource& model, Int8Weights weights,
                                                   const Int8Progress& progress) override {
    std::vector<Int8Line> lines;
    std::size_t before = 0;
    for (std::size_t i = 0; i < devices().size(); ++i) {
      std::size_t total = 0;
      // Those to come are taken to have as much to make.
      const auto part_progress = [&](std::size_t done_bytes, std::size_t total_bytes) {
        total = total_bytes;
        if (progress) progress(before + done_bytes, before + total * (devices().size() - i));
      };
      ASSIGN_OR_RETURN(const std::vector<Int8Line> mine,
                       devices()[i]->prepare_int8_share(model, weights, part_progress));
      lines.insert(lines.end(), mine.begin(), mine.end());
      before += total;
    }
    return lines;
  }
  Status health() const override {
    for (const auto& device : devices()) RETURN_IF_ERROR(device->health());
    return {};
  }

 private:
  const std::vector<std::shared_ptr<ComputeModel>>& devices() const {
    return shared_->ground.devices;
  }

  const std::shared_ptr<Shared> shared_;
};

}  // namespace

std::shared_ptr<ComputeModel> make_device_group(DeviceGroupGround ground) {
  const auto& devices = ground.devices;
  CHECK(!devices.empty());
  CHECK(!ground.placement || ground.placement->ranks() == devices.size());
  auto shared = std::make_shared<Shared>();
  shared->info = devices[0]->info();
  shared->info.digest = ground.digest;
  std::string names;
  for (const auto& device : devices) names += (names.empty() ? "" : ", ") + device->info().device;
  shared->info.device =
      fmt::format("{} GPUs: {}", devices.size(), names).substr(0, limits::kMaxDeviceNameBytes);
  shared->ground = std::move(ground);
  return std::make_shared<DeviceGroupModel>(std::move(shared));
}

}  // namespace airlock
