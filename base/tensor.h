#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/dtype.h"
#include "base/shape.h"

namespace airlock {

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

/// Owns a dense row-major tensor, 64-byte aligned. Contents are zero after construction.
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
    void operator()(std::byte* data) const;
  };
  TensorDesc desc_;
  std::unique_ptr<std::byte[], Free> data_;
};

}  // namespace airlock
