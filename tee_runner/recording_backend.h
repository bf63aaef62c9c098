#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "proto/path.h"
#include "runtime/backend.h"
#include "runtime/trace/payload_writer.h"
#include "runtime/trace/trace.h"

namespace airlock {

struct RecordingOptions {
  // Of the session; nullopt: nothing is crossed.
  std::optional<PathPolicy> policy;
  bool digests = false;
  // Where tensors are kept, with digests; outlives the backend.
  PayloadWriter* payload = nullptr;
};

/// Decorates a Backend: gives `sink` a TraceRecord of each op that was waited for. Digests and
/// payloads are made before submit() and after wait(); the trace's clock stands still meanwhile.
/// The backend outlives it. One thread.
class RecordingBackend : public Backend {
 public:
  using Sink = std::function<void(TraceRecord)>;
  RecordingBackend(Backend& inner, const RecordingOptions& options, Sink sink)
      : inner_(inner), options_(options), sink_(std::move(sink)) {}

  const BackendInfo& info() const override { return inner_.info(); }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline deadline) override;
  /// A prefill begins. Times count from the first call, else from the first submit().
  void begin_run();
  /// What recording took of the caller's time so far, `sink` included.
  std::uint64_t cost_ns() const { return cost_ns_; }
  /// The payload's first failure; nothing is recorded after it, and the ops go on.
  const Status& status() const { return status_; }

 private:
  class RecordingPending;
  void keep(TraceRecord& record, TraceSide side, std::size_t index, TensorView tensor);

  Backend& inner_;
  const RecordingOptions options_;
  const Sink sink_;
  std::uint64_t cost_ns_ = 0;
  std::uint64_t origin_ns_ = 0;
  std::uint64_t runs_ = 0;
  std::uint64_t next_seq_ = 0;
  // Of the last op with weights.
  std::optional<std::uint16_t> layer_;
  Status status_;
};

}  // namespace airlock
