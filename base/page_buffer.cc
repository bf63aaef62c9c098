#include "base/page_buffer.h"

#include <sys/mman.h>

#include <limits>

namespace airlock {

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

constexpr std::size_t round_up(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

Result<PageBuffer> PageBuffer::allocate(std::size_t bytes) {
  if (bytes == 0 || bytes > std::numeric_limits<std::size_t>::max() / 2)
    return Status(StatusCode::kResourceExhausted, "cannot allocate {} bytes", bytes);
  const std::size_t length = round_up(bytes, bytes >= kHugePage ? kHugePage : kPage);
  void* data = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED)
    return Status(StatusCode::kResourceExhausted, "no memory for {} bytes", bytes);
  // Only a wish: without huge pages the buffer is as good and a little slower.
  if (length >= kHugePage) (void)::madvise(data, length, MADV_HUGEPAGE);
  PageBuffer buffer;
  buffer.pages_ = {static_cast<std::byte*>(data), Unmap{length}};
  return buffer;
}

void PageBuffer::Unmap::operator()(std::byte* data) const { ::munmap(data, bytes); }

}  // namespace airlock
