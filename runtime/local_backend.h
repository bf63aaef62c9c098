#pragma once

#include <memory>
#include <utility>

#include "runtime/backend.h"
#include "runtime/scratch.h"

namespace airlock {

/// A Backend in this process: a Compute, over memory that is used again and again. One thread.
class LocalBackend : public Backend {
 public:
  explicit LocalBackend(std::unique_ptr<Compute> compute) : compute_(std::move(compute)) {}
  const BackendInfo& info() const override { return compute_->info(); }
  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, Deadline deadline) override;

 private:
  std::unique_ptr<Compute> compute_;
  ScratchPool scratch_;
};

}  // namespace airlock
