#include "tee_runner/llama/block_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "proto/limits.h"
#include "tee_runner/llama/vector_math.h"

namespace airlock {

namespace {

static_assert(kCacheBlockPositions == QueryBlock::kKeys);

std::size_t blocks_of(std::int64_t positions) {
  return static_cast<std::size_t>((positions + kCacheBlockPositions - 1) / kCacheBlockPositions);
}

}  // namespace

Result<std::shared_ptr<CacheMemory>> CacheMemory::create(const ModelDims& dims, DType dtype,
                                                         std::uint64_t max_bytes) {
  RETURN_IF_ERROR(dims.check());
  if (dtype != DType::kF32 && dtype != DType::kBF16) {
    return Status(StatusCode::kInvalidInput, "keys and values are cached as fp32 or bf16, not {}",
                  name_of(dtype));
  }
  std::shared_ptr<CacheMemory> memory(new CacheMemory(dims, dtype));
  const auto head_dim = static_cast<std::size_t>(dims.head_dim);
  constexpr auto kPositions = static_cast<std::size_t>(kCacheBlockPositions);
  memory->pitch_ = round_up(head_dim, QueryBlock::kPitchStep);
  memory->keys_bytes_ = head_dim * kPositions * dtype_bytes(dtype);
  memory->values_bytes_ = kPositions * memory->pitch_ * dtype_bytes(dtype);
  memory->block_bytes_ = static_cast<std::uint64_t>(dims.layers) *
                         static_cast<std::uint64_t>(dims.kv_heads) *
                         (memory->keys_bytes_ + memory->values_bytes_);
  memory->block_count_ = max_bytes / memory->block_bytes_;
  if (memory->block_count_ == 0) {
    return Status(StatusCode::kResourceExhausted,
                  "{} bytes for keys and values hold none of this model's blocks of {} positions, "
                  "of {} bytes each",
                  max_bytes, kCacheBlockPositions, memory->block_bytes_);
  }
  return memory;
}

Result<PageBuffer> CacheMemory::take() {
  if (!free_.empty()) {
    PageBuffer block = std::move(free_.back());
    free_.pop_back();
    ++taken_;
    return block;
  }
  ASSIGN_OR_RETURN(PageBuffer block, PageBuffer::allocate(block_bytes_));
  (void)::madvise(block.data(), block.bytes(), MADV_DONTDUMP);
  // Where a limit forbids it, pages may be swapped: docs/THREAT_MODEL.md.
  (void)::mlock2(block.data(), block.bytes(), MLOCK_ONFAULT);
  ++taken_;
  ++made_;
  // Giving one back must not need memory.
  if (free_.capacity() < made_) free_.reserve(2 * made_);
  return block;
}

void CacheMemory::give_back(PageBuffer block) {
  std::memset(block.data(), 0, block_bytes_);
  free_.push_back(std::move(block));
  --taken_;
}

SequenceCache::SequenceCache(SequenceCache&& other) noexcept
    : memory_(other.memory_),
      blocks_(std::exchange(other.blocks_, {})),
      promised_(std::exchange(other.promised_, 0)),
      length_(std::exchange(other.length_, 0)) {}

SequenceCache& SequenceCache::operator=(SequenceCache&& other) noexcept {
  if (this == &other) return *this;
  clear();
  memory_ = other.memory_;
  blocks_ = std::exchange(other.blocks_, {});
  promised_ = std::exchange(other.promised_, 0);
  length_ = std::exchange(other.length_, 0);
  return *this;
}

std::size_t SequenceCache::lacking_blocks(std::int64_t positions) const {
  CHECK(positions >= 0);
  return std::max(blocks_of(positions), promised_) - promised_;
}

Status SequenceCache::promise(std::int64_t positions) {
  const std::size_t more = lacking_blocks(positions);
  if (more > memory_->free_blocks()) {
    return {
        StatusCode::kResourceExhausted,
        "{} positions take {} more blocks of keys and values, of {} bytes each, and {} are free",
        positions,
        more,
        memory_->block_bytes(),
        memory_->free_blocks()};
  }
  memory_->promised_ += more;
  promised_ += more;
  return {};
}

void SequenceCache::shrink() {
  const std::size_t filled = blocks_of(length_);
  while (blocks_.size() > filled) {
    memory_->give_back(std::move(blocks_.back()));
    blocks_.pop_back();
  }
  memory_->promised_ -= promised_ - filled;
  promised_ = filled;
}

Status SequenceCache::grow(std::int64_t count) {
  CHECK(count >= 0);
  const std::size_t wanted = blocks_of(length_ + count);
  if (wanted > promised_) {
    return {StatusCode::kResourceExhausted, "{} positions behind {} are more than were promised",
            count, length_};
  }
  while (blocks_.size() < wanted) {
    ASSIGN_OR_RETURN(PageBuffer block, memory_->take());
    blocks_.push_back(std::move(block));
  }
  return {};
}

void SequenceCache::extend(std::int64_t count) {
  CHECK(count >= 0 && blocks_of(length_ + count) <= blocks_.size());
  length_ += count;
}

void SequenceCache::truncate(std::int64_t length) {
  CHECK(length >= 0 && length <= length_);
  length_ = length;
  zero_behind(length);
}

/// What attention meets there counts nothing, unless it is no number.
void SequenceCache::zero_behind(std::int64_t length) {
  const auto element = dtype_bytes(memory_->dtype_);
  const auto head_dim = static_cast<std::size_t>(memory_->dims_.head_dim);
  const auto first = static_cast<std::size_t>(length % kCacheBlockPositions);
  const auto filled = static_cast<std::size_t>(length / kCacheBlockPositions);
  constexpr auto kPositions = static_cast<std::size_t>(kCacheBlockPositions);
  for (std::size_t i = filled + (first > 0 ? 1 : 0); i < blocks_.size(); ++i)
    std::memset(blocks_[i].data(), 0, memory_->block_bytes_);
  if (first == 0 || filled >= blocks_.size()) return;
  for (std::int64_t layer = 0; layer < memory_->dims_.layers; ++layer) {
    for (std::int64_t head = 0; head < memory_->dims_.kv_heads; ++head) {
      std::byte* const keys = this->keys(layer, head, static_cast<std::int64_t>(filled));
      for (std::size_t row = 0; row < head_dim; ++row)
        std::memset(keys + (row * kPositions + first) * element, 0, (kPositions - first) * element);
      const std::size_t row_bytes = memory_->pitch_ * element;
      std::memset(keys + memory_->keys_bytes_ + first * row_bytes, 0,
                  (kPositions - first) * row_bytes);
    }
  }
}

void SequenceCache::clear() {
  if (memory_ == nullptr) return;
  length_ = 0;
  shrink();
}

Result<SequenceCache> SequenceCache::copy_of_first(std::int64_t length) const {
  CHECK(length >= 0 && length <= length_);
  SequenceCache copy(memory_);
  RETURN_IF_ERROR(copy.promise(length));
  RETURN_IF_ERROR(copy.grow(length));
  for (std::size_t i = 0; i < copy.blocks_.size(); ++i)
    std::memcpy(copy.blocks_[i].data(), blocks_[i].data(), memory_->block_bytes_);
  copy.extend(length);
  copy.zero_behind(length);
  return copy;
}

std::byte* SequenceCache::head(std::int64_t layer, std::int64_t head, std::int64_t block) {
  const ModelDims& dims = memory_->dims_;
  CHECK(layer < dims.layers && head < dims.kv_heads &&
        static_cast<std::size_t>(block) < blocks_.size());
  return blocks_[static_cast<std::size_t>(block)].data() +
         static_cast<std::size_t>(layer * dims.kv_heads + head) *
             (memory_->keys_bytes_ + memory_->values_bytes_);
}

std::byte* SequenceCache::keys(std::int64_t layer, std::int64_t head, std::int64_t block) {
  return this->head(layer, head, block);
}

std::byte* SequenceCache::values(std::int64_t layer, std::int64_t head, std::int64_t block) {
  return this->head(layer, head, block) + memory_->keys_bytes_;
}

}  // namespace airlock
