#pragma once

#include <cstddef>
#include <memory>

#include "base/status.h"

namespace airlock {

/// Owns anonymous pages (mmap), zero at first, with huge pages asked for where it is large.
class PageBuffer {
 public:
  /// kResourceExhausted where the system refuses.
  static Result<PageBuffer> allocate(std::size_t bytes);

  std::byte* data() const { return pages_.get(); }
  /// At least what was asked for; not to be asked after a move.
  std::size_t bytes() const { return pages_.get_deleter().bytes; }

 private:
  struct Unmap {
    std::size_t bytes;
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Unmap> pages_;
};

}  // namespace airlock
