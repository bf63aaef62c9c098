#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>

#include "base/status.h"
#include "base/tensor.h"
#include "runtime/backend.h"
#include "runtime/channel/channel.h"
#include "runtime/stats/op_stats.h"

namespace airlock {

/// What the server answers to the ops that compute nothing.
struct ServeContext {
  std::string config_json;             // init
  TensorView norms;                    // init; fp32 [2 * layers + 1, hidden], outlives the loop
  OpHistograms* service_ns = nullptr;  // may be null; of each op: receipt of the whole request to
                                       // the reply's send. Outlives the loop
  std::function<std::string()> session_stats;  // stats: JSON, at most limits::kMaxStatsBytes
  const PeerWatch* watch = nullptr;  // may be null; asked before each request: one that never
                                     // pauses cannot outlive its session
  std::chrono::nanoseconds op_timeout{std::chrono::minutes(5)};
};

/// Serves requests from `channel` with `backend` until the session ends, and returns why:
/// kUnavailable or kCancelled (the peer left, or shutdown; ordinary), kProtocolError (it spoke
/// wrongly), kDevice (an op failed with it, as every later one would; the client was told). An op
/// that fails by itself (a bad token, no memory) is answered with its error and the loop goes on.
///
/// Two requests at most are begun and not answered: while one computes, the backend has the next
/// one. Replies leave in the order of the requests. A request's slots go home once its op is done
/// and before its reply leaves. Where the session ends with ops under way, they are abandoned. One
/// thread.
Status serve(Channel& channel, Backend& backend, const ServeContext& context,
             OpStatsTable& op_stats);

}  // namespace airlock
