#include "base/tensor.h"

#include <cstdlib>
#include <cstring>

namespace airlock {

namespace {
constexpr std::size_t kAlignment = 64;
}

std::vector<std::size_t> sizes_of(std::span<const TensorDesc> descs) {
  std::vector<std::size_t> sizes;
  sizes.reserve(descs.size());
  for (const TensorDesc& desc : descs) sizes.push_back(desc.bytes());
  return sizes;
}

Tensor::Tensor(const TensorDesc& desc) : desc_(desc) {
  const std::size_t bytes = (desc.bytes() + kAlignment - 1) / kAlignment * kAlignment;
  auto* data =
      static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes > 0 ? bytes : kAlignment));
  CHECK(data != nullptr);
  std::memset(data, 0, bytes > 0 ? bytes : kAlignment);
  data_.reset(data);
}

void Tensor::Free::operator()(std::byte* data) const { std::free(data); }

}  // namespace airlock
