#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "proto/message.h"
#include "runtime/cpu/cpu_model.h"
#include "tests/support/memory_model.h"

namespace airlock::hostile {

using Bytes = std::vector<std::byte>;

/// What rides behind headers in some sessions: of each case some tensors, and not all.
inline constexpr std::size_t kInlineBytes = 600;

/// A request and the reply that is right.
struct Case {
  OpSpec spec;
  std::vector<Bytes> inputs;
  /// Without an id and times.
  ResponseHeader reply;
  std::vector<Bytes> results;
};

/// A small model and one case of each op, by each path; their results were computed in this
/// process, and a CPU server must give the same bits.
class Cases {
 public:
  Cases();

  const std::vector<Case>& all() const { return all_; }
  /// nullptr where `spec` is none of theirs.
  const Case* find(const OpSpec& spec) const;
  const CpuModel& model() const { return *model_; }
  std::unique_ptr<Compute> make_compute() const { return model_->make_compute(); }
  const std::string& config_json() const { return config_json_; }
  const std::string& stats_json() const { return stats_json_; }
  const Tensor& norms() const { return norms_; }

 private:
  void add_computed(const OpSpec& spec);
  void add(const OpSpec& spec, std::vector<TensorDesc> results, std::vector<Bytes> bytes);

  const testing::MemoryModel weights_;
  const std::shared_ptr<CpuModel> model_;
  const std::string config_json_ = R"({"model_type":"llama"})";
  const std::string stats_json_ = R"({"side":"gpu_server"})";
  const Tensor norms_;
  std::vector<Case> all_;
};

}  // namespace airlock::hostile
