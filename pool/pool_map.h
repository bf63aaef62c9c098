#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "proto/pool.h"

namespace airlock {

/// What one session has leased of a pool, where this process maps it. A value; the memory is its
/// owner's.
class PoolMap {
 public:
  /// One extent, mapped at `bytes`.
  void add(std::uint64_t offset, std::span<std::byte> bytes) { pieces_.push_back({offset, bytes}); }
  /// `bytes` from `place` on; nullptr where they are not inside one extent of the session's, and of
  /// nowhere. Safe with any place and size that a peer may name.
  std::byte* find(PoolPlace place, std::size_t bytes) const {
    if (place.is_nowhere()) return nullptr;
    for (const Piece& piece : pieces_) {
      if (place.offset() < piece.offset) continue;
      const std::uint64_t at = place.offset() - piece.offset;
      if (at <= piece.bytes.size() && bytes <= piece.bytes.size() - at)
        return piece.bytes.data() + at;
    }
    return nullptr;
  }
  std::vector<std::span<std::byte>> spans() const {
    std::vector<std::span<std::byte>> all;
    for (const Piece& piece : pieces_) all.push_back(piece.bytes);
    return all;
  }

 private:
  struct Piece {
    std::uint64_t offset = 0;
    std::span<std::byte> bytes;
  };
  std::vector<Piece> pieces_;
};

}  // namespace airlock
