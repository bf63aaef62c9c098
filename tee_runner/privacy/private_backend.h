#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "base/status.h"
#include "base/thread_pool.h"
#include "runtime/backend.h"
#include "runtime/exact/pad.h"
#include "runtime/scratch.h"
#include "runtime/stats/privacy_stats.h"
#include "tee_runner/privacy/pads.h"
#include "tee_runner/privacy/privacy_options.h"
#include "tee_runner/privacy/private_model.h"

namespace airlock {

/// Stands between a driver and a backend that is not trusted, or is not to see: embeddings are read
/// here, linears and lm_head asked for as products of integers (int_linear), rounded, hidden under
/// pads and checked as the mode has it. Every mode gives the same bits. Results lie in private
/// memory and were checked before anything reads them; after one that fails no op is begun any
/// more, and the failure says nothing of where. One thread.
class PrivateBackend : public Backend {
 public:
  struct Parts {
    const PrivateModel& model;
    const PrivacyOptions& options;
    Backend& worker;        // takes int_linear
    PadMaker* pads;         // null where the mode does not mask
    const PadKey* pad_key;  // the maker's
    ThreadPool& pool;       // of this thread's own work
    PrivacyStats& stats;
    std::uint64_t first_epoch = 0;
  };
  /// What the parts refer to outlives it. kInternal: OpenSSL failed.
  static Result<std::unique_ptr<PrivateBackend>> create(const Parts& parts);

  const BackendInfo& info() const override { return info_; }
  /// Of embedding, batch_linear and lm_head, their float tensors fp32; kInvalidInput for others:
  /// nothing else leaves. An embedding begins a pass. kUnavailable: all epochs are used up.
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline deadline) override;

 private:
  class EmbeddingPending;
  class LinearPending;

  PrivateBackend(const Parts& parts, std::vector<WordStream> streams);
  Status begin_pass(std::int64_t rows);

  const Parts parts_;
  std::vector<WordStream> streams_;  // of each thread of the pool
  BackendInfo info_;
  ScratchPool scratch_;
  std::uint64_t next_epoch_ = 0;
  bool has_begun_ = false;  // a pass
  std::uint32_t epoch_ = 0;
  std::map<LinearId, std::uint32_t> next_row_;  // of this pass
  bool has_failed_ = false;                     // a check
};

}  // namespace airlock
