#pragma once

#include <string>
#include <vector>

#include "runtime/backend.h"
#include "runtime/replay/counts.h"
#include "runtime/replay/settings.h"
#include "runtime/stats/transport_stats.h"
#include "runtime/text/output_form.h"
#include "runtime/trace/trace.h"

namespace airlock {

struct ReplayClientResult {
  ReplayCounts counts;
  std::string error;  // empty: it replayed everything, or was interrupted
};

/// What a replay gave, whole or in part. A plain value.
struct ReplayResult {
  ReplaySettings settings;
  TraceHeader trace;
  std::string cut;  // what the trace lacks
  BackendInfo server;
  bool recorded_inputs = false;  // from the payload; else by seed
  bool same_paths = true;        // the session decides paths as the recorded one did
  bool complete = false;         // every client replayed everything
  std::vector<ReplayClientResult> clients;
  // Of all sessions.
  TransportSnapshot transport;

  /// All clients in one; the paths of its replayed side are what the sessions counted.
  ReplayCounts sum() const;
};

/// The result with a newline at its end.
std::string format_replay(const ReplayResult& result, OutputForm form);

}  // namespace airlock
