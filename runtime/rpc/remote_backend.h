#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "runtime/backend.h"
#include "runtime/channel/channel.h"
#include "runtime/stats/op_stats.h"

namespace airlock {

/// The same ops, sent over a Channel. Knows what every reply must look like and demands equality.
/// One thread.
class RemoteBackend : public Backend {
 public:
  /// `info` as the handshake told. The channel and the stats outlive the backend.
  static std::unique_ptr<RemoteBackend> create(const BackendInfo& info, Channel& channel,
                                               OpStatsTable& op_stats);
  /// The server's config JSON and norms. `config_bytes` as the handshake told.
  virtual Status init(std::size_t config_bytes, std::string& config_json, Tensor& norms,
                      Deadline deadline) = 0;
  virtual Status ping(Deadline deadline) = 0;
  virtual Result<std::string> session_stats(Deadline deadline) = 0;
};

}  // namespace airlock
