#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>

#include "base/dtype.h"

namespace airlock {

/// The extents of a dense row-major tensor, rank 0 to 4. Extents may come from outside, so products
/// are checked.
class Shape {
 public:
  static constexpr std::size_t kMaxRank = 4;

  Shape() = default;
  /// At most kMaxRank extents (CHECKed: for shapes that we made ourselves).
  Shape(std::initializer_list<std::int64_t> extents);
  /// For extents from outside: nullopt where the rank is over kMaxRank or an extent is negative.
  static std::optional<Shape> make(std::span<const std::int64_t> extents);

  std::size_t rank() const { return rank_; }
  std::int64_t operator[](std::size_t axis) const { return extents_[axis]; }
  std::span<const std::int64_t> extents() const { return {extents_.data(), rank_}; }
  /// Product of the extents; nullopt on overflow or a negative extent.
  std::optional<std::size_t> element_count() const;
  /// element_count() times the element's size; nullopt on overflow.
  std::optional<std::size_t> byte_count(DType dtype) const;
  /// "[128, 2048]"
  std::string to_string() const;
  bool operator==(const Shape& other) const;

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  std::size_t rank_ = 0;
};

}  // namespace airlock
