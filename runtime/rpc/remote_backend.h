#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pool/lease.h"
#include "runtime/backend.h"
#include "runtime/channel/channel.h"
#include "runtime/stats/op_stats.h"

namespace airlock {

class RequestQueue;

/// A Backend whose ops cross a Channel. Knows what every reply must look like and demands equality.
/// Books each op whose reply it checked. One thread.
class RemoteBackend : public Backend {
 public:
  /// `info` as the handshake told. The channel and the stats outlive the backend. `peer_state` says
  /// what is known of the server, for the message of an op whose time is over; may be empty.
  /// `pool`: what the session has leased, where the channel's policy has a pool (else null); it
  /// outlives the backend too.
  RemoteBackend(BackendInfo info, Channel& channel, OpStatsTable& op_stats,
                std::function<std::string()> peer_state = {}, PoolLease* pool = nullptr);
  ~RemoteBackend() override;

  const BackendInfo& info() const override { return info_; }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline deadline) override;
  /// The same for tensors that may lie in the pool already: `places` has one for each input and
  /// then for each result, of the session's own lease, nowhere for those that are to cross. `keeps`
  /// holds the memory there; it is let go of once the reply has come, whatever became of the op.
  /// kInvalidInput: a place for a tensor that is too small for the pool.
  Result<std::unique_ptr<Pending>> prepare_in_place(const OpSpec& spec,
                                                    std::vector<PoolPlace> places,
                                                    std::shared_ptr<const void> keeps,
                                                    Deadline deadline);
  /// Takes the replies that have come, so that what their requests held is free. Does not wait.
  Status take_replies();
  /// The server's config JSON and norms. `config_bytes` as the handshake told.
  Status init(std::size_t config_bytes, std::string& config_json, Tensor& norms, Deadline deadline);
  Status ping(Deadline deadline);
  Result<std::string> session_stats(Deadline deadline);

 private:
  Result<std::unique_ptr<ReceivedMessage>> ask(Op op, std::vector<TensorDesc> results,
                                               Deadline deadline);

  const BackendInfo info_;
  const std::unique_ptr<RequestQueue> queue_;
};

}  // namespace airlock
