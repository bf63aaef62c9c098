#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/page_buffer.h"
#include "base/status.h"
#include "proto/op.h"

namespace airlock {

/// Positions of one block: as many keys as attention takes in one step.
inline constexpr std::int64_t kCacheBlockPositions = 64;

/// The memory of all sequences' keys and values: blocks of kCacheBlockPositions positions of all
/// layers, as many as fit under one limit. Private memory that is kept out of core dumps and, where
/// the system allows it, out of swap; a block is zeroed before another sequence has it. One thread.
class CacheMemory {
 public:
  /// fp32, or bf16, which rounds keys and values once. kInvalidInput: another type, or odd or
  /// impossible dims. kResourceExhausted: `max_bytes` is less than one block.
  static Result<std::shared_ptr<CacheMemory>> create(const ModelDims& dims, DType dtype,
                                                     std::uint64_t max_bytes);

  DType dtype() const { return dtype_; }
  const ModelDims& dims() const { return dims_; }
  std::uint64_t block_bytes() const { return block_bytes_; }
  std::size_t block_count() const { return block_count_; }
  /// Blocks that nobody has been promised.
  std::size_t free_blocks() const { return block_count_ - promised_; }
  /// Bytes that sequences have filled or begun to fill.
  std::uint64_t used_bytes() const { return taken_ * block_bytes_; }

 private:
  friend class SequenceCache;
  CacheMemory(const ModelDims& dims, DType dtype) : dims_(dims), dtype_(dtype) {}
  Result<PageBuffer> take();
  void give_back(PageBuffer block);

  const ModelDims dims_;
  const DType dtype_;
  // Of a block.
  std::size_t pitch_ = 0;         // elements of a value row: head_dim, rounded up
  std::size_t keys_bytes_ = 0;    // of one head: [head_dim, kCacheBlockPositions]
  std::size_t values_bytes_ = 0;  // of one head: [kCacheBlockPositions, pitch]
  std::uint64_t block_bytes_ = 0;
  std::size_t block_count_ = 0;
  std::size_t promised_ = 0;
  std::size_t taken_ = 0;
  std::size_t made_ = 0;          // all that there are
  std::vector<PageBuffer> free_;  // zeroed
};

/// The keys, with RoPE applied, and the values of one sequence, for positions [0, length()). A pass
/// writes behind length() and moves it when it has succeeded. Move-only; one thread; keeps its
/// memory alive.
class SequenceCache {
 public:
  explicit SequenceCache(std::shared_ptr<CacheMemory> memory) : memory_(std::move(memory)) {}
  SequenceCache(SequenceCache&& other) noexcept;
  SequenceCache& operator=(SequenceCache&& other) noexcept;
  ~SequenceCache() { clear(); }

  std::int64_t length() const { return length_; }
  const CacheMemory& memory() const { return *memory_; }
  std::size_t promised_blocks() const { return promised_; }
  /// Blocks that promise() would take more than it has.
  std::size_t lacking_blocks(std::int64_t positions) const;
  /// Has room for `positions` in all promised. kResourceExhausted, with the figures, and nothing
  /// changed.
  Status promise(std::int64_t positions);
  /// Gives back what was promised and is not filled.
  void shrink();
  /// Takes blocks for the next `count` positions. kResourceExhausted beyond what was promised, or
  /// where the system has no memory.
  Status grow(std::int64_t count);
  /// Each layer has stored the next `count` positions, for which grow() made room (CHECKed).
  void extend(std::int64_t count);
  /// Forgets the positions from `length` on, which is at most length() (CHECKed).
  void truncate(std::int64_t length);
  void clear();
  /// Another sequence's, with the first `length` positions of this one's, at most length()
  /// (CHECKed). kResourceExhausted as promise() and grow().
  Result<SequenceCache> copy_of_first(std::int64_t length) const;

  /// One head of one block, of the memory's type: keys [head_dim, kCacheBlockPositions],
  /// transposed; values [kCacheBlockPositions, value_pitch()]. What was not stored is finite.
  std::byte* keys(std::int64_t layer, std::int64_t head, std::int64_t block);
  std::byte* values(std::int64_t layer, std::int64_t head, std::int64_t block);
  std::size_t value_pitch() const { return memory_->pitch_; }

 private:
  std::byte* head(std::int64_t layer, std::int64_t head, std::int64_t block);
  void zero_behind(std::int64_t length);

  std::shared_ptr<CacheMemory> memory_;
  std::vector<PageBuffer> blocks_;
  std::size_t promised_ = 0;  // at least as many as there are
  std::int64_t length_ = 0;
};

}  // namespace airlock
