#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/enum.h"

namespace airlock {

/// Element types that cross the airlock. The numbers travel on the wire and never change.
enum class DType : std::uint8_t {
  kF32 = 1,
  kF16 = 2,
  kBF16 = 3,
  kI32 = 4,
  kU8 = 5,
  kF64 = 6,
  kU32 = 7,
  kI8 = 8,  // rows with scales in them: base/int8_rows.h
};

struct DTypeTraits {
  std::string_view name;
  std::size_t bytes = 0;
  /// Weights and activations may have it. fp64 is for products of arrays of one's own alone.
  bool is_model_float = false;
};

constexpr DTypeTraits traits_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {"fp32", 4, true};
    case DType::kF16:
      return {"fp16", 2, true};
    case DType::kBF16:
      return {"bf16", 2, true};
    case DType::kI32:
      return {"int32", 4};
    case DType::kU8:
      return {"uint8", 1};
    case DType::kF64:
      return {"fp64", 8};
    case DType::kU32:
      return {"uint32", 4};
    case DType::kI8:
      return {"int8", 1};
  }
  return {};
}

constexpr std::string_view name_of(DType dtype) { return traits_of(dtype).name; }
/// Of one element.
constexpr std::size_t dtype_bytes(DType dtype) { return traits_of(dtype).bytes; }
constexpr bool is_model_float(DType dtype) { return traits_of(dtype).is_model_float; }
/// Activations may cross as it: a float type, or int8 rows.
constexpr bool is_wire_type(DType dtype) { return is_model_float(dtype) || dtype == DType::kI8; }

}  // namespace airlock
