#include "shm/ring_room.h"

#include "base/available_memory.h"
#include "shm/ring_memory.h"

namespace airlock {

Status check_ring_memory(const RingGeometry& geometry, std::string_view without) {
  ASSIGN_OR_RETURN(const std::size_t segment_bytes, ring_segment_bytes(geometry));
  const auto free_bytes = memory_available_bytes();
  if (!free_bytes || *free_bytes / 2 >= segment_bytes) return {};
  return {StatusCode::kResourceExhausted,
          "too little memory: the rings of one session need {:.1f} MiB, {:.1f} MiB are free here "
          "(of the machine's memory, and of what control groups allow); give fewer --ring-slots, "
          "smaller --ring-slot-bytes, or {}",
          2.0 * static_cast<double>(segment_bytes) / 1048576.0,
          static_cast<double>(*free_bytes) / 1048576.0, without};
}

}  // namespace airlock
