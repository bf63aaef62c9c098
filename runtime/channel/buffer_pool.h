#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "base/status.h"

namespace airlock {

/// Page-aligned memory of a BufferPool. Shared (shared_ptr), because the
/// sender, what is half sent and a lease may drop it in any order; with the last owner it goes home
/// to its pool, or back to the system once the pool is gone.
struct PooledBuffer {
  std::shared_ptr<std::byte> owner;
  std::size_t size = 0;

  /// Exactly the bytes that were asked for.
  std::span<std::byte> bytes() const { return {owner.get(), size}; }
};

/// Reusable buffers for bulk tensors, so that 64 MiB are not page-faulted anew for each message.
/// Contents are whatever the last user left: one pool serves one session, so nothing crosses
/// between sessions. Thread-safe.
class BufferPool {
 public:
  /// Keeps at most `max_cached_bytes` of buffers that nobody uses; more are given back to the
  /// system.
  explicit BufferPool(std::size_t max_cached_bytes);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  /// kResourceExhausted where the system has no memory. Of 0 bytes: an empty buffer.
  Result<PooledBuffer> take(std::size_t bytes);
  std::size_t cached_bytes() const;

 private:
  struct Shelf;
  std::shared_ptr<Shelf>
      shelf_;  // shared with the buffers that are in use, which may outlive the pool
};

}  // namespace airlock
