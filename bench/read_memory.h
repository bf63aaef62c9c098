#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/page_buffer.h"
#include "base/thread_pool.h"
#include "base/vectorize.h"

namespace airlock::bench {

/// Bytes that a thread reads at a time.
inline constexpr std::size_t kReadBytes = std::size_t{256} << 10;

/// Pieces that the pool's threads take as they come: body(thread, piece).
template <typename Body>
void for_pieces(ThreadPool& pool, std::size_t count, const Body& body) {
  std::atomic<std::size_t> next{0};
  pool.parallel_for(pool.thread_count(), [&](std::size_t thread, std::size_t) {
    for (std::size_t piece; (piece = next.fetch_add(1)) < count;) body(thread, piece);
  });
}

/// Memory that is read, and walked round and round: where it is larger than all caches, each piece
/// was there longest ago. One thread.
class Memory {
 public:
  explicit Memory(std::size_t bytes) : pages_(PageBuffer::allocate(bytes).value()), bytes_(bytes) {
    auto* values = reinterpret_cast<std::uint16_t*>(pages_.data());
    for (std::size_t i = 0; i < bytes / 2; ++i)
      values[i] = static_cast<std::uint16_t>(0x3c00U + i % 251);
  }
  /// The next so many bytes, at most all of them.
  std::byte* next(std::size_t bytes) {
    if (at_ + bytes > bytes_) at_ = 0;
    std::byte* data = pages_.data() + at_;
    at_ += bytes;
    return data;
  }

 private:
  PageBuffer pages_;
  std::size_t bytes_;
  std::size_t at_ = 0;
};

using Line __attribute__((vector_size(64), aligned(8), may_alias)) = std::uint64_t;

/// Of a multiple of 256 bytes. Four sums, so that none is waited for.
AIRLOCK_VECTORIZE inline std::uint64_t read_all(const std::byte* data, std::size_t bytes) {
  const auto* lines = reinterpret_cast<const Line*>(data);
  Line a{};
  Line b{};
  Line c{};
  Line d{};
  for (std::size_t i = 0; i < bytes / sizeof(Line); i += 4) {
    a ^= lines[i];
    b ^= lines[i + 1];
    c ^= lines[i + 2];
    d ^= lines[i + 3];
  }
  const Line all = a ^ b ^ c ^ d;
  return all[0] ^ all[1] ^ all[2] ^ all[3] ^ all[4] ^ all[5] ^ all[6] ^ all[7];
}

inline std::atomic<std::uint64_t> read_sink{0};

/// Reads once, by all threads of the pool; what is beyond the last whole kReadBytes is left out.
inline void read_memory(ThreadPool& pool, const std::byte* data, std::size_t bytes) {
  for_pieces(pool, bytes / kReadBytes, [&](std::size_t, std::size_t piece) {
    read_sink.fetch_xor(read_all(data + piece * kReadBytes, kReadBytes), std::memory_order_relaxed);
  });
}

}  // namespace airlock::bench
