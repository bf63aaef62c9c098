#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
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
  bool operator==(const Shape&) const = default;

 private:
  // Those beyond the rank are 0.
  std::array<std::int64_t, kMaxRank> extents_{};
  std::size_t rank_ = 0;
};

/// Type and shape of a tensor, without its data. `bytes()` may be called once the shape is known to
/// be sane (CHECKed).
struct TensorDesc {
  DType dtype = DType::kF32;
  Shape shape;

  std::size_t bytes() const {
    auto count = shape.byte_count(dtype);
    CHECK(count.has_value());
    return *count;
  }
  std::size_t elements() const { return bytes() / dtype_bytes(dtype); }
  bool operator==(const TensorDesc&) const = default;
};

/// The bytes of each.
std::vector<std::size_t> sizes_of(std::span<const TensorDesc> descs);

/// Dense row-major data that someone else owns. Valid as long as the owner says; passed by value.
struct TensorView {
  const std::byte* data = nullptr;
  TensorDesc desc;

  std::span<const std::byte> bytes() const { return {data, desc.bytes()}; }
  /// The elements as T; the caller knows that T is the dtype's type (std::uint16_t for fp16 and
  /// bf16).
  template <typename T>
  std::span<const T> as() const {
    CHECK(sizeof(T) == dtype_bytes(desc.dtype));
    return {reinterpret_cast<const T*>(data), desc.elements()};
  }
};

/// As TensorView, to be written.
struct MutableTensorView {
  std::byte* data = nullptr;
  TensorDesc desc;

  std::span<std::byte> bytes() const { return {data, desc.bytes()}; }
  template <typename T>
  std::span<T> as() const {
    CHECK(sizeof(T) == dtype_bytes(desc.dtype));
    return {reinterpret_cast<T*>(data), desc.elements()};
  }
  operator TensorView() const { return {data, desc}; }  // NOLINT: a reader may always read
};

/// Owns a dense row-major tensor, 64-byte aligned. Contents are zero after construction, which, as
/// a container's, throws std::bad_alloc where there is no memory.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(const TensorDesc& desc);

  const TensorDesc& desc() const { return desc_; }
  TensorView view() const { return {data_.get(), desc_}; }
  MutableTensorView mutable_view() { return {data_.get(), desc_}; }
  template <typename T>
  std::span<T> as() {
    return mutable_view().as<T>();
  }
  template <typename T>
  std::span<const T> as() const {
    return view().as<T>();
  }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  TensorDesc desc_;
  std::unique_ptr<std::byte[], Free> data_;
};

}  // namespace airlock
