#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "base/tensor.h"
#include "gpu_server/options.h"
#include "runtime/compute.h"
#include "runtime/stats/report.h"

namespace airlock {

/// What a server serves, loaded.
struct ServedModel {
  std::string config_json;
  Tensor norms;  // fp32 [2 * layers + 1, hidden]
  std::string digest;
  DType stored_dtype = DType::kF32;
  std::shared_ptr<ComputeModel> compute;
  std::optional<DeviceReport> device;  // of a GPU
};

/// The endpoint, the sessions and their statistics. bind() and run() on one thread; run() starts
/// the control thread (which never computes) and a worker for each session.
class Server {
 public:
  /// Takes the endpoint: the directory, the lock, what a dead server left, the socket. kInUse,
  /// kInvalidInput, kUsage, kResourceExhausted (/dev/shm too small for one session).
  static Result<std::unique_ptr<Server>> bind(const ServerOptions& options);
  virtual ~Server() = default;
  /// Prints "ready ENDPOINT" and serves until SIGINT or SIGTERM arrives on `signal_fd`. kDevice:
  /// the device failed for good; all sessions were ended and told why.
  virtual Status run(ServedModel model, int signal_fd) = 0;
};

}  // namespace airlock
