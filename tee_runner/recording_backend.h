#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "proto/path.h"
#include "runtime/backend.h"
#include "runtime/trace/payload_writer.h"
#include "runtime/trace/trace.h"

namespace airlock {

struct RecordingOptions {
  std::optional<PathPolicy> policy;  // of the session; nullopt: nothing is crossed
  bool digests = false;
  PayloadWriter* payload = nullptr;  // where tensors are kept, with digests; outlives the backend
};

/// Decorates a Backend: gives `sink` a TraceRecord of each op that was waited for. A backend that
/// tells no total_ns is measured as the time inside submit() and wait(). Digests and payloads are
/// made before submit() and after wait(); the trace's clock stands still meanwhile. Operands that
/// the caller gives must stay as they are until submit(). The backend outlives it. One thread.
class RecordingBackend : public Backend {
 public:
  using Sink = std::function<void(TraceRecord)>;
  static std::unique_ptr<RecordingBackend> create(Backend& inner, const RecordingOptions& options,
                                                  Sink sink);
  /// A prefill begins. Times count from the first call, else from the first submit().
  virtual void begin_run() = 0;
  /// What recording took of the caller's time so far, `sink` included.
  virtual std::uint64_t cost_ns() const = 0;
  /// The payload's first failure; nothing is recorded after it, and the ops go on.
  virtual const Status& status() const = 0;
};

}  // namespace airlock
