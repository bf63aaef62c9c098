#pragma once

#include <memory>
#include <utility>

#include "tests/gpu_server/server_rig.h"

namespace airlock::testing {

/// A server without a model: a pool of slots of 1 MiB, of which one session has at most two of each
/// use.
class PoolServer {
 public:
  static constexpr std::uint64_t kSlot = 1 << 20;

  explicit PoolServer(const std::string& endpoint = {}, std::size_t threads = 1) {
    options_.endpoint = endpoint.empty() ? "ipc://" + directory_.file("ctl") : endpoint;
    options_.no_model = true;
    options_.ring.slot_count = 8;
    options_.ring.slot_bytes = 65536;
    options_.pool = {PoolMode::kShape, {kSlot, {{8, 8, 8}}, 0}, PoolCommit::kLazy};
    ServedModel served;
    served.compute = CpuModel::create_without_weights(threads).value();
    server_ = std::make_unique<RunningServer>(options_, std::move(served));
  }
  const std::string& endpoint() const { return options_.endpoint; }
  void stop() { EXPECT_TRUE(server_->stop().ok()); }

 private:
  TempDir directory_;
  ServerOptions options_;
  std::unique_ptr<RunningServer> server_;
};

}  // namespace airlock::testing
