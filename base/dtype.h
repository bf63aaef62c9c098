#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/enum.h"

namespace airlock {

/// Element types that cross the airlock. The numbers travel on the wire and never change.
enum class DType : std::uint8_t { kF32 = 1, kF16 = 2, kBF16 = 3, kI32 = 4, kU8 = 5 };

constexpr std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "fp32";
    case DType::kF16:
      return "fp16";
    case DType::kBF16:
      return "bf16";
    case DType::kI32:
      return "int32";
    case DType::kU8:
      return "uint8";
  }
  return {};
}

constexpr std::size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

constexpr bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

}  // namespace airlock
