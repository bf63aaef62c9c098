#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "tee_runner/llama/driver.h"

/// Internal to driver.cc and driver_steps.cc.
namespace airlock {

/// How many rows of logits a pass of this shape gives.
inline std::int64_t logits_rows(const ForwardShape& shape) {
  if (shape.logits == Logits::kChosen) return shape.chosen_rows;
  return shape.logits == Logits::kAll ? shape.tokens : shape.logits == Logits::kLast ? 1 : 0;
}

/// An op whose results are wanted.
struct LlamaDriver::Sent {
  const PlannedOp* op;
  PendingOp pending;
};

/// What is under way between the steps of one pass.
struct LlamaDriver::Pass {
  const ForwardShape& shape;
  std::span<const std::int32_t> tokens;
  KvCache* cache;                           // of a pass over one sequence
  std::span<const SequenceRows> sequences;  // of one over several
  std::span<float> logits;
  std::vector<std::int64_t> chosen = {};  // the rows of Logits::kChosen
  std::deque<Sent> sent = {};             // oldest first
  std::vector<Sent> landed = {};          // finished before somebody asked for their results
  // Of offloaded attention: of the row tiles whose queries, keys and values are being read.
  std::deque<Sent> qkv = {};
  Tensor attended = {};  // wire [tokens, heads * head_dim], gathered from PV
};

}  // namespace airlock
