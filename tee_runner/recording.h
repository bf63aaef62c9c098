#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/status.h"
#include "proto/path.h"
#include "runtime/backend.h"
#include "runtime/trace/payload_writer.h"
#include "runtime/trace/trace_writer.h"
#include "tee_runner/options.h"
#include "tee_runner/recording_backend.h"
#include "tee_runner/run_prefill.h"

namespace airlock {

/// The recording that `tee_runner prefill --record` asks for, from the first look at the path to
/// the closed file; without --record it does nothing. A trace that cannot be written never ends the
/// run: status() says it afterwards. One thread; the options outlive it.
class Recording {
 public:
  explicit Recording(const PrefillOptions& options) : options_(options) {}

  /// Before anything is loaded or connected: kInvalidInput where the trace cannot lie there, kUsage
  /// where it would go to stdout, or where its name cannot have a payload beside it.
  Status check() const;

  struct Session {
    std::optional<PathPolicy> policy;  // nullopt: local
    DType wire = DType::kF32;
    std::size_t tokens = 0;
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
  Status check_place() const;
  Status check_payload_place() const;
  TraceHeader header(const BackendInfo& info, const Session& session) const;
  void say_start() const;
  void say_cost(std::uint64_t runs_ns) const;

  const PrefillOptions& options_;
  std::unique_ptr<PayloadWriter> payload_;
  std::unique_ptr<TraceWriter> writer_;
  std::unique_ptr<RecordingBackend> backend_;
  Status status_;
  std::optional<std::uint64_t> cost_ns_;
};

}  // namespace airlock
