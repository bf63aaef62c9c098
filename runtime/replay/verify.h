#pragma once

#include <cstddef>
#include <string>

#include "base/status.h"
#include "base/tensor.h"
#include "runtime/backend.h"
#include "runtime/replay/material.h"
#include "runtime/replay/settings.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// Compares outputs with the recorded ones. Thread-safe.
class ReplayVerifier {
 public:
  /// Under kNone nothing is wrong. `payload` outlives it; kDigest does not read it. `tolerance` is
  /// relative to the largest of the recorded tensor; of words there is none.
  ReplayVerifier(ReplayVerify mode, const SafetensorsFile* payload, double tolerance)
      : mode_(mode), payload_(payload), tolerance_(tolerance) {}

  /// Whether an input from the payload is the one of the trace; kInvalidInput naming the payload
  /// where not. kDigest only: the other modes know no digests.
  Status check_input(const TraceRecord& record, std::size_t index, TensorView input) const;
  /// What is not as recorded; empty: nothing. Reads each byte of `got` once. kInvalidInput where
  /// the payload does not fit the trace.
  Result<std::string> check(const TraceRecord& record, std::size_t index, TensorView got) const;

 private:
  Result<std::string> check_values(const TraceRecord& record, std::size_t index,
                                   TensorView got) const;
  Result<std::string> check_int8_rows(const TraceRecord& record, std::size_t index,
                                      TensorView got) const;
  ReplayVerify mode_;
  const SafetensorsFile* payload_;
  double tolerance_;
};

/// Whether the trace holds what `verify` needs; kUsage with advice where not.
Status check_can_verify(const TraceHeader& header, ReplayVerify verify);
/// Whether the server computes the trace's ops: kMismatch naming both shapes where its model's is
/// another, or where `verify` is asked for and its digest is another. A digest that differs
/// otherwise is a warning.
Status check_replay_model(const TraceHeader& header, const BackendInfo& server,
                          ReplayVerify verify);
/// After a replay in which nothing differed: kMismatch where less was compared than was recorded,
/// saying how much. `cut` is RecordSource::cut(); counts are over all clients.
struct VerifiedPart {
  std::uint64_t ops = 0;      // of one replay of the trace
  std::uint64_t tensors = 0;  // compared
};
Status check_verified_all(const TraceHeader& header, const std::string& cut,
                          const VerifiedPart& part);

}  // namespace airlock
