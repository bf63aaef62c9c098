#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/status.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "proto/op.h"
#include "tee_runner/llama/rope.h"

namespace airlock {

inline constexpr std::uint64_t kMaxKvCacheBytes = std::uint64_t{256} << 30;

/// The keys, with RoPE applied, and the values of each layer for positions [0, length()): what the
/// tokens of later passes attend to. Private memory of one size, of which only what was filled is
/// ever touched. A pass writes behind length() and moves it when it has succeeded, so one that
/// fails leaves the cache as it was. One thread.
class KvCache {
 public:
  /// Room for `capacity` positions in a float type. kInvalidInput: a capacity that is not from 1 to
  /// limits::kMaxTokens. kResourceExhausted, with the figure: over kMaxKvCacheBytes, or more than
  /// there is.
  static Result<KvCache> create(const ModelDims& dims, DType dtype, std::int64_t capacity);

  std::int64_t capacity() const { return desc_.shape[1]; }
  std::int64_t length() const { return length_; }
  std::int64_t layers() const { return layers_; }
  /// Of one layer's keys, and of its values: [kv_heads, capacity, head_dim].
  const TensorDesc& desc() const { return desc_; }
  std::uint64_t bytes() const { return 2 * static_cast<std::uint64_t>(layers_) * desc_.bytes(); }

  /// kInvalidInput where the cache was made for other dims or another type; kResourceExhausted
  /// where `count` more positions do not fit.
  Status check_room(const ModelDims& dims, DType dtype, std::size_t count) const;

  /// Put one layer's keys, which are rotated, and values [tokens, kv_heads * head_dim] of the
  /// tokens from position length() + first_row on in their places; they fit (CHECKed). Each element
  /// is read once, and rounded once to the cache's type.
  void store_keys(ThreadPool& pool, const RopeTable& table, std::int64_t layer, TensorView keys,
                  std::int64_t first_row = 0);
  void store_values(ThreadPool& pool, std::int64_t layer, TensorView values,
                    std::int64_t first_row = 0);
  /// Copy the first rows of some heads to `out`, [heads, rows, head_dim] of the cache's type.
  void copy_keys(ThreadPool& pool, std::int64_t layer, std::int64_t first_head,
                 MutableTensorView out) {
    copy(pool, keys(layer), first_head, out);
  }
  void copy_values(ThreadPool& pool, std::int64_t layer, std::int64_t first_head,
                   MutableTensorView out) {
    copy(pool, values(layer), first_head, out);
  }
  /// desc() each. A cache of one layer serves all layers in their turn, each of which replaces the
  /// one before. What lies behind length() and was not stored has no meaning.
  MutableTensorView keys(std::int64_t layer) { return part(2 * (layer % layers_)); }
  MutableTensorView values(std::int64_t layer) { return part(2 * (layer % layers_) + 1); }

  /// Each layer has stored the next `count` positions, which fit (CHECKed).
  void extend(std::int64_t count);
  /// Forgets the positions from `length` on, which is at most length() (CHECKed).
  void truncate(std::int64_t length);

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  using Memory = std::unique_ptr<std::byte, Free>;

  KvCache(std::int64_t layers, const TensorDesc& desc, Memory memory)
      : layers_(layers), desc_(desc), memory_(std::move(memory)) {}
  static void copy(ThreadPool& pool, TensorView from, std::int64_t first_head,
                   MutableTensorView out);
  MutableTensorView part(std::int64_t index) {
    return {memory_.get() + static_cast<std::size_t>(index) * desc_.bytes(), desc_};
  }

  std::int64_t layers_;
  TensorDesc desc_;
  Memory memory_;  // keys and values of layer 0, of layer 1, ...
  std::int64_t length_ = 0;
};

}  // namespace airlock
