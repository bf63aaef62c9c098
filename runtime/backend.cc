#include "runtime/backend.h"

#include <fmt/format.h>

#include <cstring>

namespace airlock {

namespace {

/// A caller's tensor must be just what the spec says, where its elements may lie.
Status check_given(std::string_view what, std::size_t index, TensorView given,
                   const TensorDesc& expected) {
  if (!(given.desc == expected)) {
    return {StatusCode::kInvalidInput,
            fmt::format("{} {} is {} {}, expected {} {}", what, index, name_of(given.desc.dtype),
                        given.desc.shape.to_string(), name_of(expected.dtype),
                        expected.shape.to_string())};
  }
  const auto address = reinterpret_cast<std::uintptr_t>(given.data);
  if (given.data == nullptr || address % dtype_bytes(expected.dtype) != 0) {
    return {StatusCode::kInvalidInput,
            fmt::format("{} {} lies at {:#x}, expected a multiple of {}", what, index, address,
                        dtype_bytes(expected.dtype))};
  }
  return {};
}

Status check_count(std::string_view what, std::size_t given, std::size_t expected) {
  if (given == expected) return {};
  return {StatusCode::kInvalidInput,
          fmt::format("{} {} given, expected {}", given, what, expected)};
}

}  // namespace

Status check_operands(const Operands& operands, const OpSpec& spec,
                      std::span<const TensorDesc> results) {
  if (!operands.inputs.empty()) {
    RETURN_IF_ERROR(check_count("inputs", operands.inputs.size(), spec.inputs.size()));
    for (std::size_t i = 0; i < operands.inputs.size(); ++i) {
      RETURN_IF_ERROR(check_given("input", i, operands.inputs[i], spec.inputs[i]));
    }
  }
  if (!operands.results.empty()) {
    RETURN_IF_ERROR(check_count("results", operands.results.size(), results.size()));
    for (std::size_t i = 0; i < operands.results.size(); ++i) {
      RETURN_IF_ERROR(check_given("result", i, operands.results[i], results[i]));
    }
  }
  return {};
}

Result<std::vector<std::int32_t>> read_token_ids(TensorView tensor, std::int64_t vocab) {
  std::vector<std::int32_t> ids(tensor.desc.elements());
  std::memcpy(ids.data(), tensor.data, tensor.desc.bytes());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      return Status(StatusCode::kInvalidInput,
                    fmt::format("token id {} at position {} is outside the vocabulary of {}",
                                ids[i], i, vocab));
    }
  }
  return ids;
}

}  // namespace airlock
