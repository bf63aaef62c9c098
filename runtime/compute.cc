#include "runtime/compute.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace airlock {

void check_memory(const OpSpec& spec, const OpMemory& memory) {
  const auto is_placed = [](const TensorView& view) {
    const auto address = reinterpret_cast<std::uintptr_t>(view.data);
    return address != 0 && address % dtype_bytes(view.desc.dtype) == 0;
  };
  CHECK(is_computed(spec.op));
  CHECK(std::ranges::equal(memory.inputs, spec.inputs, {}, &TensorView::desc));
  CHECK(std::ranges::all_of(memory.inputs, is_placed));
  CHECK(std::ranges::all_of(memory.results, is_placed));
  CHECK(memory.pitches.empty() || memory.pitches.size() == memory.results.size());
  for (std::size_t i = 0; i < memory.pitches.size(); ++i) {
    if (memory.is_dense(i)) continue;
    const TensorDesc& desc = memory.results[i].desc;
    CHECK(desc.shape.rank() == 2 && memory.pitches[i] % dtype_bytes(desc.dtype) == 0);
    CHECK(memory.pitches[i] >= desc.bytes() / static_cast<std::size_t>(desc.shape[0]));
  }
}

Result<std::vector<std::int32_t>> read_token_ids(TensorView tensor, std::int64_t vocab) {
  std::vector<std::int32_t> ids(tensor.desc.elements());
  std::memcpy(ids.data(), tensor.data, tensor.desc.bytes());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      return Status(StatusCode::kInvalidInput,
                    "token id {} at position {} is outside the vocabulary of {}", ids[i], i, vocab);
    }
  }
  return ids;
}

}  // namespace airlock
