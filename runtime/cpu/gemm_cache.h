#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <utility>

#include "base/dtype.h"
#include "proto/op.h"
#include "runtime/cpu/onednn.h"
#include "runtime/cpu/weights.h"

namespace airlock {

/// Everything that tells one product from another within one model.
struct GemmKey {
  std::int64_t groups = 0;  // 0: x [m, k] times a weight; else batches of a product of two operands
  std::int64_t heads_per_group =
      1;  // over 1 only where a lies transposed: else a group's heads are rows of one matrix
  std::int64_t m = 0;
  std::int64_t k = 0;
  std::int64_t n = 0;
  Transpose transpose = Transpose::kNone;
  bool packed = false;  // the weight lies in oneDNN's layout
  DType result = DType::kF32;
  auto operator<=>(const GemmKey&) const = default;
};

/// oneDNN products of one Compute, made when first needed; the least recently used go first. One
/// thread.
class GemmCache {
 public:
  static constexpr std::size_t kCapacity = 256;

  GemmCache(const dnnl::engine& engine, DType held) : engine_(engine), held_(held) {}
  /// `weight` where key.groups is 0. Valid until the next call. Throws dnnl::error.
  const onednn::Product& get(const GemmKey& key, const HeldWeight* weight);
  std::size_t size() const { return entries_.size(); }

 private:
  using Entry = std::pair<GemmKey, onednn::Product>;
  onednn::Product make(const GemmKey& key, const HeldWeight* weight) const;

  dnnl::engine engine_;
  DType held_;
  std::list<Entry> entries_;  // most recently used first
  std::map<GemmKey, std::list<Entry>::iterator> index_;
};

}  // namespace airlock
