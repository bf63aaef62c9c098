#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "proto/message.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/remote_backend.h"
#include "runtime/rpc/serve.h"
#include "tests/channel/channel_rigs.h"
#include "tests/support/memory_model.h"

namespace airlock::testing_rigs {

enum class Route { kInProcess, kRing, kPool, kSocketIpc, kSocketTcp };

inline const char* route_name(Route route) {
  switch (route) {
    case Route::kInProcess:
      return "in_process";
    case Route::kRing:
      return "ring";
    case Route::kPool:
      return "pool";
    case Route::kSocketIpc:
      return "socket_ipc";
    case Route::kSocketTcp:
      return "socket_tcp";
  }
  return "";
}

/// Both ends of a channel; `watch` ends their waits.
inline Rig make_rig(Route route, const PeerWatch& watch) {
  if (route == Route::kInProcess) return make_in_process_rig();
  if (route == Route::kRing) return make_ring_rig(&watch);
  if (route == Route::kPool) return make_pool_rig(&watch);
  return make_socket_rig(route == Route::kSocketTcp ? Transport::kTcp : Transport::kIpc, &watch);
}

/// Accepts any request or reply whose header can be read, and what its tensors are to it.
inline Result<std::vector<std::size_t>> sizes_of_request(std::span<const std::byte> header) {
  ASSIGN_OR_RETURN(const RequestHeader request, decode_request(header));
  return sizes_of(request.spec.inputs);
}
inline Result<std::vector<std::size_t>> sizes_of_reply(std::span<const std::byte> header) {
  ASSIGN_OR_RETURN(const ResponseHeader response, decode_response(header));
  return sizes_of(response.results);
}

inline std::shared_ptr<CpuModel> make_cpu_model(const ModelSource& model, DType dtype) {
  return CpuModel::create(model, {.dtype = dtype, .threads = 1, .progress = {}}).value();
}

/// serve() in a thread, on the server's end of a channel.
class ServingThread {
 public:
  ServingThread(Channel& channel, std::unique_ptr<Compute> compute, ServeContext context)
      : compute_(std::move(compute)),
        context_(std::move(context)),
        thread_([this, &channel] { status_ = serve(channel, *compute_, context_, op_stats_); }) {}
  ~ServingThread() { (void)join(); }
  /// Why the session ended.
  Status join() {
    if (thread_.joinable()) thread_.join();
    return status_;
  }
  OpStatsTable& op_stats() { return op_stats_; }

 private:
  std::unique_ptr<Compute> compute_;
  ServeContext context_;
  OpStatsTable op_stats_;
  Status status_;
  std::thread thread_;  // last: it uses the others
};

inline constexpr const char* kConfigJson = R"({"model_type":"llama"})";
inline constexpr const char* kStatsJson = R"({"side":"gpu_server"})";

inline ServeContext serve_context(const Tensor& norms, std::string stats_json = kStatsJson,
                                  std::chrono::nanoseconds op_timeout = std::chrono::minutes(1)) {
  ServeContext context;
  context.config_json = kConfigJson;
  context.norms = norms.view();
  context.session_stats = [text = std::move(stats_json)] { return text; };
  context.op_timeout = op_timeout;
  return context;
}

/// A RemoteBackend whose server computes on the CPU, in a thread.
class RemoteRig {
 public:
  RemoteRig(Route route, const ModelSource& model, const std::shared_ptr<CpuModel>& compute,
            Privacy privacy = Privacy::kPlain)
      : rig_(make_rig(route, life_)), norms_(read_norms(model).value()) {
    remote_ = std::make_unique<RemoteBackend>(compute->info(), *rig_.runner, op_stats_, nullptr,
                                              rig_.pool ? rig_.pool->lease.get() : nullptr);
    ServeContext context = serve_context(norms_);
    context.privacy = privacy;
    server_ =
        std::make_unique<ServingThread>(*rig_.server, compute->make_compute(), std::move(context));
  }
  ~RemoteRig() { (void)stop(); }
  /// Ends the session and gives serve()'s reason.
  Status stop() {
    if (!stopped_) {
      stopped_ = true;
      life_.end({StatusCode::kCancelled, "the test is over"});
      remote_.reset();
      rig_.runner.reset();
      reason_ = server_->join();
    }
    return reason_;
  }

  RemoteBackend& backend() { return *remote_; }
  Channel& runner() { return *rig_.runner; }
  Channel& server() { return *rig_.server; }
  OpStatsTable& op_stats() { return op_stats_; }
  OpStatsTable& server_op_stats() { return server_->op_stats(); }
  const Tensor& norms() const { return norms_; }

 private:
  PeerLife life_;
  Rig rig_;
  Tensor norms_;
  OpStatsTable op_stats_;
  std::unique_ptr<RemoteBackend> remote_;
  std::unique_ptr<ServingThread> server_;
  bool stopped_ = false;
  Status reason_;
};

}  // namespace airlock::testing_rigs
