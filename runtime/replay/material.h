#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "proto/path.h"
#include "runtime/model/safetensors.h"
#include "runtime/trace/trace.h"
#include "runtime/trace/trace_reader.h"

namespace airlock {

/// The ops to replay, one after the other: some that are kept, or a file's. One thread.
class RecordSource {
 public:
  /// The records outlive it; `cut` is what they lack.
  RecordSource(std::span<const TraceRecord> kept, std::string cut)
      : kept_(kept), cut_(std::move(cut)) {}
  explicit RecordSource(TraceReader reader) : reader_(std::move(reader)) {}

  /// Lives until the next call; nullptr at the end. Errors as TraceReader::next().
  Result<const TraceRecord*> next();
  Status rewind();
  /// After the end: what is missing; empty where the trace is whole.
  const std::string& cut() const { return reader_ ? reader_->cut() : cut_; }

 private:
  std::span<const TraceRecord> kept_;
  std::string cut_;
  std::size_t next_ = 0;
  // Where nothing is kept.
  std::optional<TraceReader> reader_;
  std::optional<TraceRecord> record_;
};

inline constexpr std::size_t kReplayRecordsKept = 16384;

/// A trace for several readers at once, in bounded memory: a small one is read once and kept, of a
/// longer one each source reads the file. Thread-safe once it is open.
class ReplayTrace {
 public:
  /// As TraceReader::open(); a bad line among the first `most_kept` ops is found here.
  static Result<std::unique_ptr<ReplayTrace>> open(const std::string& path,
                                                   std::size_t most_kept = kReplayRecordsKept);

  const TraceHeader& header() const { return header_; }
  /// What a session needs that replays its integer ops, judged by the first `most_kept`; kNone
  /// where there are none.
  Int8Weights int8_weights() const { return int8_weights_; }
  /// The trace outlives it. kInvalidInput where the file is another than it was.
  Result<std::unique_ptr<RecordSource>> make_source() const;

 private:
  std::string path_;
  TraceHeader header_;
  Int8Weights int8_weights_ = Int8Weights::kNone;
  bool kept_ = false;
  // Both where kept_.
  std::vector<TraceRecord> records_;
  std::string cut_;
};

/// What decided the path of each recorded tensor; nullopt: nothing crossed.
std::optional<PathPolicy> recorded_policy(const TraceHeader& header);

/// Copies bytes [offset, offset + out.size()) of a recorded tensor of `record` from the trace's
/// payload, which is believed in nothing: kInvalidInput where it lacks the tensor, or has it in
/// another type or shape than the record says. Thread-safe.
Status read_recorded(const SafetensorsFile& payload, const TraceRecord& record, TraceSide side,
                     std::size_t index, std::uint64_t offset, std::span<std::byte> out);
/// Where the payload of the trace at `trace_path` lies: beside that name, or else beside the file
/// that the name, a link, leads to. Empty where it has none.
std::string payload_path(const std::string& trace_path, const TraceHeader& header);

/// Writes an input of an op into a loan. Thread-safe.
using ReplayInputs =
    std::function<Status(const TraceRecord& record, std::size_t index, MutableTensorView place)>;

/// Floats from -1 to 1, token ids below `vocab` and words mod 2^32: a function of the seed, the
/// op's seq, the input's index and the position only. At the cost of a copy: each tensor begins
/// somewhere in a private cycle of 65521 values of its type.
ReplayInputs seeded_inputs(std::uint64_t seed, std::int64_t vocab);
/// The recorded ones. The payload outlives it.
ReplayInputs recorded_inputs(const SafetensorsFile& payload);

}  // namespace airlock
