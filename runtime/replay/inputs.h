#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "runtime/model/safetensors.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// The tensors that a trace recorded: the safetensors file beside it, which is believed in nothing.
/// Thread-safe.
class ReplayPayload {
 public:
  static Result<std::unique_ptr<ReplayPayload>> open(const std::string& path);
  const std::string& path() const { return file_->file().path(); }
  /// Copies bytes [offset, offset + out.size()) of a tensor of `record`. kInvalidInput where it is
  /// missing, or of another type or shape than the record says.
  Status read(const TraceRecord& record, TraceSide side, std::size_t index, std::uint64_t offset,
              std::span<std::byte> out) const;

 private:
  explicit ReplayPayload(std::unique_ptr<SafetensorsFile> file) : file_(std::move(file)) {}
  std::unique_ptr<SafetensorsFile> file_;
};
/// Where the payload of the trace at `trace_path` lies; empty where it has none.
std::string payload_path(const std::string& trace_path, const TraceHeader& header);

/// Writes an input of an op into a loan. Thread-safe.
using ReplayInputs =
    std::function<Status(const TraceRecord& record, std::size_t index, MutableTensorView place)>;

/// Floats from -1 to 1 and token ids below `vocab`: a function of the seed, the op's seq, the
/// input's index and the position only. At the cost of a copy: each tensor begins somewhere in a
/// private cycle of 65521 values of its type.
ReplayInputs seeded_inputs(std::uint64_t seed, std::int64_t vocab);
/// The recorded ones. The payload outlives it.
ReplayInputs recorded_inputs(const ReplayPayload& payload);

}  // namespace airlock
