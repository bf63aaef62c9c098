#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/status.h"
#include "proto/op.h"
#include "runtime/exact/int8_weights.h"
#include "runtime/exact/pad.h"

namespace airlock {

/// The secrets that results of one linear are checked with: kCheckVectors vectors s of 32-bit words
/// over the rows of all its weights' planes, and W^T s mod 2^64. Y = X W^T passes where
///
///   sum_i Y_i s_i = sum_j X_j (W^T s)_j mod 2^64
///
/// for both, on the integers without a mask. One row that is wrong passes with a chance of 2^-64,
/// for whoever knows nothing of s. The rows lie weight by weight, of each weight plane 0 before
/// plane 1. All is wiped when it goes.
///
/// add() from any thread; then, once every row was added, all else from any thread.
class LinearCheck {
 public:
  static constexpr std::size_t kCheckVectors = 2;

  /// `weight_rows`: of each weight. `words` gives the check key's words and is needed here alone.
  /// The errors are its own.
  static Result<std::unique_ptr<LinearCheck>> create(WordStream& words, Linear linear,
                                                     std::uint16_t layer,
                                                     std::span<const std::int64_t> weight_rows,
                                                     std::uint8_t planes, std::int64_t columns);
  ~LinearCheck();
  LinearCheck(const LinearCheck&) = delete;
  LinearCheck& operator=(const LinearCheck&) = delete;

  /// Adds these rows' part of W^T s; each row of the linear once, in any order. They fit the linear
  /// (CHECKed).
  void add(const Int8Rows& rows);

  /// Whether all of `row_count` rows pass: x [row_count, columns], and a result [row_count, rows of
  /// the weight] for each weight's plane, in their order. It looks at all of them whatever it
  /// finds. The extents fit (CHECKed).
  bool passes(std::size_t row_count, std::span<const std::int32_t> x,
              std::span<const std::span<const std::int32_t>> results) const;

  std::uint8_t planes() const { return planes_; }
  /// One vector's s [rows of all planes] and W^T s [columns]. They never leave the trusted side.
  std::span<const std::int32_t> secrets(std::size_t vector) const { return secrets_[vector]; }
  std::span<const std::uint64_t> sums(std::size_t vector) const { return sums_[vector]; }

 private:
  LinearCheck(std::span<const std::int64_t> weight_rows, std::uint8_t planes, std::int64_t columns);

  const std::vector<std::int64_t> weight_rows_;
  const std::uint8_t planes_;
  const std::size_t columns_;
  std::array<std::vector<std::int32_t>, kCheckVectors> secrets_;
  std::mutex mutex_;
  std::array<std::vector<std::uint64_t>, kCheckVectors> sums_;  // guarded by mutex_ while added to
};

/// The checks of all linears of a model. Its add() is the Int8Sink of make_int8_weights().
class ModelCheck {
 public:
  static Result<std::unique_ptr<ModelCheck>> create(const PadKey& check_key, const ModelDims& dims);

  /// From any thread. kInternal where the words cannot be made.
  Status add(const Int8Rows& rows);

  /// Of a linear whose rows were added (CHECKed). From any thread, once all were.
  const LinearCheck& linear(Linear linear, std::uint16_t layer) const;

 private:
  ModelCheck(WordStream words, const ModelDims& dims);
  Result<LinearCheck*> find(const Int8Rows& rows);

  const ModelDims dims_;
  std::mutex mutex_;  // of what follows, while rows are added
  WordStream words_;
  std::vector<PerValue<Linear, std::unique_ptr<LinearCheck>>> checks_;  // [layers]; lm_head's in 0
};

}  // namespace airlock
