#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/output_file.h"
#include "base/status.h"
#include "proto/path.h"
#include "runtime/backend.h"
#include "runtime/trace/payload_writer.h"
#include "runtime/trace/trace_writer.h"
#include "tee_runner/options.h"
#include "tee_runner/result.h"

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

/// The recording that `tee_runner prefill --record` asks for, from the first look at the path to
/// the closed file; without --record it does nothing. A trace that cannot be written never ends the
/// run: status() says it afterwards. One thread.
class Recording {
 public:
  explicit Recording(PrefillOptions options) : options_(std::move(options)) {}

  /// Before anything is loaded or connected: as OutputFile::open(); kUsage where the trace would go
  /// to stdout, or where its name cannot have a payload beside it. Without it nothing is recorded.
  Status check();

  struct Session {
    std::optional<PathPolicy> policy;  // nullopt: local
    DType wire = DType::kF32;
    std::size_t tokens = 0;
    std::int64_t tile = 0;  // the driver's
    // What of a driver's plan is asked of the backend that is recorded; empty: all of it.
    std::function<std::vector<PlannedOp>(const std::vector<PlannedOp>&)> crossing = {};
  };
  /// Makes the files and gives the backend to ask: `inner` itself, or one around it that lives
  /// until finish(). `inner` outlives that. Errors as PayloadWriter::create() and
  /// TraceWriter::create().
  Result<Backend*> start(Backend& inner, const Session& session);
  void begin_run();
  /// The runs are over: closes the trace, or leaves it as one that was cut off where they failed;
  /// says on stderr what it cost.
  void finish(const Result<PrefillResult>& result);

  /// The first failure of a write: kInvalidInput or kResourceExhausted.
  const Status& status() const { return status_; }
  /// What recording took of the runs' time; nullopt where nothing was recorded.
  std::optional<std::uint64_t> cost_ns() const { return cost_ns_; }

 private:
  bool digests() const { return options_.record_digest || options_.record_payload; }

  const PrefillOptions options_;
  std::optional<OutputFile> place_;  // of the trace, from check() to start()
  std::string payload_path_;         // as new_payload_path() at check()
  std::unique_ptr<PayloadWriter> payload_;
  std::unique_ptr<TraceWriter> writer_;
  std::unique_ptr<RecordingBackend> backend_;
  Status status_;
  std::optional<std::uint64_t> cost_ns_;
};

}  // namespace airlock
