#include "proto/pool.h"

#include <algorithm>

namespace airlock {

Status check_extents(const std::vector<PoolExtent>& extents) {
  for (std::size_t i = 0; i < extents.size(); ++i) {
    const auto& [use, offset, bytes] = extents[i];
    const bool possible = bytes > 0 && bytes <= limits::kMaxPoolBytes &&
                          offset <= limits::kMaxPoolBytes - bytes &&
                          (offset | bytes) % limits::kPoolPageBytes == 0;
    if (!possible) {
      return {StatusCode::kProtocolError, "{} bytes of the pool at {} are none that can be leased",
              bytes, offset};
    }
    for (std::size_t j = 0; j < i; ++j) {
      const PoolExtent& other = extents[j];
      if (offset < other.offset + other.bytes && other.offset < offset + bytes) {
        return {StatusCode::kProtocolError, "two extents of a lease meet at {}",
                std::max(offset, other.offset)};
      }
    }
  }
  return {};
}

}  // namespace airlock
