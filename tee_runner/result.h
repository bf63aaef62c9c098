#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/output_file.h"
#include "base/status.h"
#include "base/tensor.h"
#include "runtime/backend.h"
#include "runtime/stats/op_stats.h"
#include "tee_runner/llama/driver.h"
#include "tee_runner/options.h"

namespace airlock {

struct TopLogit {
  std::int64_t id = 0;
  float logit = 0;
};
/// The `count` largest of `logits`, largest first, the lower id first among equals; NaN comes last.
std::vector<TopLogit> top_logits(std::span<const float> logits, std::size_t count);

/// How far results may be apart, relative to the largest of their tensor: what one rounding of each
/// operand and result to `dtype` may move them (golden models' README).
double tolerance_of(DType dtype);

/// How far the remote logits are from the local ones, and what the airlock cost.
struct Comparison {
  std::uint64_t remote_wall_ns = 0;
  std::uint64_t local_wall_ns = 0;
  struct OpCost {
    Op op = Op::kPing;
    std::uint64_t calls = 0;
    std::uint64_t remote_ns = 0;  // in all
    std::uint64_t local_ns = 0;
  };
  std::vector<OpCost> ops;  // those that both sides ran
  bool same_bits = false;
  std::size_t differing = 0;  // logits that are not the same bits
  double largest_error = 0;   // over the largest local logit; NaN where a logit is
  double tolerance = 0;       // of largest_error; 0: the same bits are demanded
  double overhead() const;    // 0.1: the remote prefill takes 10 % longer
  bool passed() const { return tolerance > 0 ? largest_error <= tolerance : same_bits; }
};

/// What a run of `repeat` prefills gave.
struct PrefillResult {
  std::size_t tokens = 0;
  std::vector<std::uint64_t> runs_ns;  // each prefill, without connecting and init
  Tensor logits;                       // of the last prefill
  std::vector<TopLogit> top;           // five, of the last token
  std::optional<Comparison> comparison = {};

  /// Median; the mean of the middle two for an even count.
  std::uint64_t wall_ns() const;
  double tokens_per_s() const;
};
/// `before_run`, where given, is called as each prefill begins.
Result<PrefillResult> run_prefill(LlamaDriver& driver, std::span<const std::int32_t> tokens,
                                  std::size_t repeat, const std::function<void()>& before_run = {});

/// A CPU server must give the same bits; another device stays within the tolerance of the coarser
/// of the two types.
Comparison compare(const PrefillResult& remote, const OpSnapshotTable& remote_ops,
                   const BackendInfo& server, DType wire, const PrefillResult& local,
                   const OpSnapshotTable& local_ops);
/// kMismatch with the figures, or ok.
Status check_comparison(const Comparison& comparison);

/// The result as text for stdout.
std::string format_result(const PrefillResult& result, OutputForm form);

/// Writes `tensor` (fp32, [vocab] or [tokens, vocab]) as a NumPy .npy file of version 1.0. Errors
/// as OutputFile's.
Status write_npy(const OutputFile& file, TensorView tensor);

}  // namespace airlock
