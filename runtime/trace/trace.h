#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "proto/op.h"
#include "proto/path.h"
#include "runtime/model/forward_plan.h"
#include "runtime/op_times.h"
#include "runtime/stats/report.h"

namespace airlock {

/// A prefill trace: what crossed the airlock, op by op. docs/TRACE_FORMAT.md draws the file: one
/// line of JSON for the header, then one for each op. These are plain values; a trace that was read
/// has passed every check (trace_line.h), so its sizes can be trusted, its times only be shown.

inline constexpr int kTraceSchemaVersion = 1;
inline constexpr std::size_t kMaxTraceLineBytes = std::size_t{64} << 10;
/// Times are only shown and added up. A year: the parts of one op cannot wrap; who adds up ops has
/// to stop at the largest number (base/saturating.h).
inline constexpr std::uint64_t kMaxTraceTimeNs = 366ULL * 24 * 3600 * 1'000'000'000;

enum class TraceSource : std::uint8_t {
  kRecorded,     // a run of tee_runner
  kSynthesised,  // a model's shape: all times are 0
  kImported,     // a log of the Python prototype
};
constexpr std::string_view name_of(TraceSource source) {
  switch (source) {
    case TraceSource::kRecorded:
      return "recorded";
    case TraceSource::kSynthesised:
      return "synthesised";
    case TraceSource::kImported:
      return "imported";
  }
  return {};
}

struct TraceTensor {
  TensorDesc desc;
  std::optional<Path> path;  // nullopt: it crossed nothing (--backend local)
  // 64 hex digits of the bytes; empty unless digests were asked for, and of a pad_linear.
  std::string sha256;
  bool operator==(const TraceTensor&) const = default;
};

/// One op. Its inputs and outputs are what op_results() says of its spec and the trace's dims.
struct TraceRecord {
  std::uint64_t seq = 0;                   // from 0; a gap is an op that failed or was dropped
  std::uint64_t run = 0;                   // which prefill of --repeat
  Op op = Op::kEmbedding;                  // one that a backend computes
  std::optional<std::uint16_t> layer;      // the weights', else that of the last op that had some
  std::vector<WeightId> weights;           // batch_linear, int_linear, pad_linear
  std::uint8_t planes = 0;                 // int_linear, pad_linear
  Transpose transpose = Transpose::kNone;  // matmul
  std::vector<TraceTensor> inputs;
  std::vector<TraceTensor> outputs;
  std::uint32_t slots_in_use = 0;  // ring slots of the requests, at submit, this op's among them
  // Submit, less what prepare() took, since the first run began.
  std::uint64_t start_ns = 0;
  // From there to the checked reply; the device's part is in no trace.
  OpTimes times;
  bool operator==(const TraceRecord&) const = default;

  OpSpec spec() const;
  std::uint64_t end_ns() const { return start_ns + times.total_ns; }
  std::uint64_t input_bytes() const;
  std::uint64_t output_bytes() const;
  std::uint64_t bytes() const { return input_bytes() + output_bytes(); }
  /// Of inputs and outputs that went by `path`.
  std::uint64_t bytes_by(Path path) const;
  /// The slowest path that any of its tensors took; nullopt if none crossed.
  std::optional<Path> slowest_path() const;
};

struct TraceHeader {
  TraceSource source = TraceSource::kRecorded;
  std::string build;       // "airlock 0.1.0"
  HostReport host;         // of the runner; its device is the backend's
  std::string started_at;  // UTC, "2026-11-21T16:40:00Z"
  std::string model;       // what the user called it, for readers; never used as a path
  ModelDims dims;
  std::string digest;       // of the model, hex; empty where unknown
  std::int64_t tokens = 0;  // their number; the ids are never in a header
  std::uint64_t runs = 1;
  DType wire = DType::kF32;
  DType dtype = DType::kF32;           // what the backend computed in
  std::string attention;               // "offload" or "tee"
  std::string backend;                 // "remote" or "local"
  std::uint64_t path_limit_bytes = 0;  // 0: no ring
  std::uint32_t ring_slots = 0;
  bool digests = false;              // tensors carry sha256
  std::string payload;               // file name of the payloads, beside the trace; empty: none
  std::vector<std::string> assumed;  // names of fields that an import had to guess
  // Known at the end only; nullopt in a trace that was cut off.
  std::optional<std::uint64_t> wall_ns;  // of all runs: ops, and the TEE between them
  std::optional<std::uint64_t> records;
  std::uint64_t dropped = 0;  // ops that are missing because the disk was too slow
  bool operator==(const TraceHeader&) const = default;
};

/// Names of an op's tensors in the payload file: "000012.in.0", "000012.out.1".
enum class TraceSide : std::uint8_t { kInput, kOutput };
std::string payload_tensor_name(std::uint64_t seq, TraceSide side, std::size_t index);

/// Whether a recording may hold the bytes of an op's tensors, or their digests. Not of a
/// pad_linear: its key gives the pads of a whole session, and so does what it makes of them.
constexpr bool is_kept(Op op) { return op != Op::kPadLinear; }
/// Whether an op of no weights stands outside of the layers.
constexpr bool is_outside_layers(Op op) { return op != Op::kBatchLinear && op != Op::kMatmul; }

/// The record of one op with these results, its layer and times unknown; `policy` is nullopt where
/// nothing is crossed.
TraceRecord make_record(const OpSpec& spec, std::span<const TensorDesc> results,
                        const std::optional<PathPolicy>& policy);
/// The same with its layer. `spec` fits `dims` (CHECKed).
TraceRecord make_record(const OpSpec& spec, std::optional<std::uint16_t> layer,
                        const ModelDims& dims, const std::optional<PathPolicy>& policy);
/// Record number `seq` of a trace that runs `plan`, made for `dims`, again and again. Its times are
/// 0.
TraceRecord synthesise_record(std::span<const PlannedOp> plan, std::uint64_t seq,
                              const ModelDims& dims, const PathPolicy& policy);

/// "airlock 0.1.0".
std::string build_name();
/// Now, as TraceHeader::started_at has it.
std::string utc_now();

}  // namespace airlock
