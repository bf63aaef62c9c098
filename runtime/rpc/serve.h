#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "base/status.h"
#include "base/tensor.h"
#include "proto/handshake.h"
#include "runtime/channel/channel.h"
#include "runtime/compute.h"
#include "runtime/stats/op_stats.h"

namespace airlock {

/// What a session's loop stands on beside its channel and its Compute; all of it outlives the loop.
struct ServeContext {
  // The answer to init, with the norms, fp32 [2 * layers + 1, hidden].
  std::string config_json;
  TensorView norms;
  // The answer to stats: JSON, of which limits::kMaxStatsBytes are sent.
  std::function<std::string()> session_stats;
  // May be null. Of each op: receipt of the whole request to the reply's send.
  OpHistograms* service_ns = nullptr;
  // May be null. Asked before each request and while an op computes: a client that never pauses, or
  // whose op takes long, cannot outlive its session.
  const PeerWatch* watch = nullptr;
  std::chrono::nanoseconds op_timeout{std::chrono::minutes(5)};
  // An op that takes more multiplications and additions is refused; 0: none is.
  std::uint64_t max_op_flop = 0;
  // What the session is for: ops that its mode has no use for are refused, as a
  // runner's bug would show a host what the mode hides: the integer ops to kPlain, all computed
  // ones but pad_linear to kDealer, all but int_linear to the others.
  Privacy privacy = Privacy::kPlain;
};

/// Serves requests from `channel` with `compute` until the session ends, and returns why:
/// kUnavailable or kCancelled (the peer left, or shutdown; ordinary), kProtocolError (it spoke
/// wrongly), kDevice (an op failed with it, as every later one would; the client was told). An op
/// that fails by itself (a bad token, no memory) is answered with its error and the loop goes on.
///
/// Two requests at most are begun and not answered: while one computes, the next one's
/// operands are on their way to the device. One that uses memory of the pool which the other
/// writes, or writes what that reads, waits for its end. Replies leave in the order of the
/// requests. A request's slots go home once its op is done and before its reply leaves. Where the
/// session ends with ops under way, they are abandoned. One thread.
Status serve(Channel& channel, Compute& compute, const ServeContext& context,
             OpStatsTable& op_stats);

}  // namespace airlock
