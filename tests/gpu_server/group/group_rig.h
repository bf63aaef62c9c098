#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "gpu_server/group/group_model.h"
#include "gpu_server/group/int8_lines.h"
#include "gpu_server/group/worker.h"
#include "runtime/cpu/cpu_model.h"
#include "tests/gpu_server/group/memory_link.h"
#include "tests/support/memory_model.h"

namespace airlock::testing {

struct GroupCase {
  PlacementKind kind = PlacementKind::kLayers;
  std::size_t ranks = 3;
  bool door_only = false;
  GroupTiming timing{};
  using Wrap = std::function<std::shared_ptr<ComputeModel>(std::shared_ptr<ComputeModel>)>;
  /// Stands around the model of a rank that is not 0. May be empty.
  Wrap wrap{};
};

/// A group whose ranks are threads of this process, with a model in memory; rank 0's end is the
/// test's.
class GroupRig {
 public:
  GroupRig(const MemoryModel& source, DType dtype, GroupCase wanted)
      : source_(source),
        case_(std::move(wanted)),
        hub_(case_.ranks),
        placement_(
            Placement::make(case_.kind, source.config(), case_.ranks, case_.door_only).value()),
        ends_(case_.ranks) {
    for (std::size_t rank = 1; rank < case_.ranks; ++rank)
      workers_.emplace_back([this, rank, dtype] { work(rank, dtype); });
    leader_ = GroupLeader::start({.open = [this] { return open(0); },
                                  .timing = case_.timing,
                                  .leave = [this] { left_.store(true); }},
                                 soon())
                  .value();
    CHECK(leader_->await_hellos(soon()).ok());
    CHECK(leader_->begin_loading().ok());
    own_ = load(0, dtype);
    CHECK(leader_->await_loaded().ok());
    BackendInfo info;
    info.dims = source.config().dims;
    info.dtype = dtype;
    info.stored_dtype = source.stored_dtype();
    info.device = "ranks";
    info.digest = source.digest().value();
    info.fp64_products = CpuModel::create_without_weights(1).value()->info().fp64_products;
    model_ = make_group_model({*leader_, placement_, std::move(info), own_});
  }
  ~GroupRig() {
    if (!stopped_) (void)stop();
    leader_.reset();
    for (std::thread& worker : workers_) worker.join();
  }
  GroupRig(const GroupRig&) = delete;
  GroupRig& operator=(const GroupRig&) = delete;

  static Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }
  ComputeModel& model() { return *model_; }
  GroupLeader& leader() { return *leader_; }
  MemoryHub& hub() { return hub_; }
  const Placement& placement() const { return placement_; }
  bool was_asked_to_end() const { return left_.load(); }
  bool stop() {
    stopped_ = true;
    return leader_->stop(std::chrono::seconds(20));
  }
  /// After a rank has ended: how.
  const Status& end_of(std::size_t rank) {
    workers_[rank - 1].join();
    workers_[rank - 1] = std::thread([] {});
    return ends_[rank];
  }

 private:
  Result<std::unique_ptr<GroupLink>> open(std::size_t rank) { return hub_.link(rank); }

  std::shared_ptr<ComputeModel> load(std::size_t rank, DType dtype) {
    const ModelShare& share = placement_.share(rank);
    if (share.empty()) return nullptr;
    return CpuModel::create(source_,
                            {.dtype = dtype, .threads = 1, .progress = {}, .share = &share})
        .value();
  }

  void work(std::size_t rank, DType dtype) {
    const auto link = hub_.link(rank);
    const auto load_share = [&]() -> Result<LoadedShare> {
      LoadedShare loaded;
      loaded.model = load(rank, dtype);
      if (loaded.model == nullptr) return loaded;
      loaded.make_int8 = [this, model = loaded.model](Int8Weights weights) -> Result<std::string> {
        ASSIGN_OR_RETURN(const auto lines, model->prepare_int8_share(source_, weights, {}));
        return int8_text(lines);
      };
      if (case_.wrap) loaded.model = case_.wrap(loaded.model);
      return loaded;
    };
    const WorkerGround ground{.hello = {.version = "1", .identity = "model", .host = link->host()},
                              .dims = source_.config().dims,
                              .share = placement_.share(rank),
                              .load = load_share,
                              .timing = case_.timing};
    ends_[rank] = run_worker(*link, ground);
    if (ends_[rank].ok()) link->finish();
  }

  const MemoryModel& source_;
  const GroupCase case_;
  MemoryHub hub_;
  const Placement placement_;
  std::vector<Status> ends_;  // each the rank's, until it is joined
  std::atomic<bool> left_{false};
  bool stopped_ = false;
  std::vector<std::thread> workers_;
  std::unique_ptr<GroupLeader> leader_;
  std::shared_ptr<ComputeModel> own_;
  std::shared_ptr<ComputeModel> model_;
};

}  // namespace airlock::testing
