#include "base/shape.h"

#include <algorithm>

#include "base/check.h"

namespace airlock {

Shape::Shape(std::initializer_list<std::int64_t> extents) : rank_(extents.size()) {
  CHECK(extents.size() <= kMaxRank);
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

std::optional<Shape> Shape::make(std::span<const std::int64_t> extents) {
  if (extents.size() > kMaxRank) return std::nullopt;
  Shape shape;
  shape.rank_ = extents.size();
  for (std::size_t axis = 0; axis < extents.size(); ++axis) {
    if (extents[axis] < 0) return std::nullopt;
    shape.extents_[axis] = extents[axis];
  }
  return shape;
}

std::optional<std::size_t> Shape::element_count() const {
  std::size_t count = 1;
  for (std::int64_t extent : extents()) {
    if (extent < 0 || __builtin_mul_overflow(count, static_cast<std::size_t>(extent), &count))
      return std::nullopt;
  }
  return count;
}

std::optional<std::size_t> Shape::byte_count(DType dtype) const {
  std::optional<std::size_t> count = element_count();
  std::size_t bytes = 0;
  if (!count || __builtin_mul_overflow(*count, dtype_bytes(dtype), &bytes)) return std::nullopt;
  return bytes;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (std::size_t axis = 0; axis < rank_; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(extents_[axis]);
  }
  return text + "]";
}

bool Shape::operator==(const Shape& other) const {
  return std::ranges::equal(extents(), other.extents());
}

}  // namespace airlock
