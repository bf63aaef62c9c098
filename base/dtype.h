#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace airlock {

/// Element types that cross the airlock. The numbers travel on the wire and never change.
enum class DType : std::uint8_t { kF32 = 1, kF16 = 2, kBF16 = 3, kI32 = 4, kU8 = 5 };

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

/// "fp32", "fp16", "bf16", "int32", "uint8".
std::string_view dtype_name(DType dtype);
/// Parses what dtype_name() prints.
std::optional<DType> parse_dtype(std::string_view name);
/// A number that came from outside; nullopt where no DType has it.
std::optional<DType> dtype_from_wire(std::uint64_t value);

}  // namespace airlock
