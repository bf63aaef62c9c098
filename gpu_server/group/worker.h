#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "gpu_server/group/link.h"
#include "gpu_server/group/port.h"
#include "proto/op.h"
#include "runtime/compute.h"
#include "runtime/placement/placement.h"

namespace airlock {

/// What a worker computes with; its share may be empty.
struct LoadedShare {
  // Null: the share is empty, and matmul alone would be computed by nobody.
  std::shared_ptr<ComputeModel> model;
  std::uint64_t bytes = 0;  // of weights
  // Of the model's digest (ModelSource::digest_lines()), one behind the other.
  std::string digest_lines;
  // Makes the share's int8 weights, and gives the lines of their digest. Any thread, one at a time.
  std::function<Result<std::string>(Int8Weights)> make_int8;
};

struct WorkerGround {
  RankHello hello;
  ModelDims dims;
  const ModelShare& share;
  /// Called once, on a thread of its own, when the leader says so.
  std::function<Result<LoadedShare>()> load;
  // SIGTERM, SIGINT and SIGHUP are read here and passed to the leader, who ends all. -1: none.
  int signal_fd = -1;
  GroupTiming timing{};
  /// Called with the end before threads are waited for, which may take as long as a model loads: a
  /// program ends here. May be empty.
  std::function<void(const Status&)> before_end{};
};

/// A rank that computes for rank 0, on the link's thread, until that ends it (ok) or is silent
/// (kUnavailable); ops run on threads of their own. What ends it otherwise the leader is told
/// first. On ok the caller finishes the link.
Status run_worker(GroupLink& link, const WorkerGround& ground);

}  // namespace airlock
