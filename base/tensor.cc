#include "base/tensor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

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

std::string Shape::to_string() const { return fmt::format("[{}]", fmt::join(extents(), ", ")); }

std::vector<std::size_t> sizes_of(std::span<const TensorDesc> descs) {
  std::vector<std::size_t> sizes;
  sizes.reserve(descs.size());
  for (const TensorDesc& desc : descs) sizes.push_back(desc.bytes());
  return sizes;
}

Tensor::Tensor(const TensorDesc& desc) : desc_(desc) {
  constexpr std::size_t kAlignment = 64;
  const std::size_t bytes =
      std::max<std::size_t>(1, (desc.bytes() + kAlignment - 1) / kAlignment) * kAlignment;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes)));
  if (data_ == nullptr) throw std::bad_alloc();
  std::memset(data_.get(), 0, bytes);
}

}  // namespace airlock
