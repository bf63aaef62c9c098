#include "shm/segment_room.h"

#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdint>

#include "base/available_memory.h"
#include "base/random.h"
#include "shm/segment.h"

namespace airlock {
namespace {

std::string size_text(std::uint64_t bytes) {
  const auto count = static_cast<double>(bytes);
  return bytes >> 30 != 0 ? fmt::format("{:.1f} GiB", count / (1 << 30))
                          : fmt::format("{:.1f} MiB", count / (1 << 20));
}

std::string advice(std::string_view where, std::string_view how, std::uint64_t need,
                   std::optional<std::uint64_t> have, std::size_t max_clients) {
  if (!have || *have >= need) return {};
  return fmt::format(
      "the rings of {} sessions (--max-clients) take up to {} of {}, and {} are free: who finds no "
      "room is refused. Give it more ({}), or a smaller --max-clients, fewer --ring-slots or "
      "smaller --ring-slot-bytes",
      max_clients, size_text(need), where, size_text(*have), how);
}

}  // namespace

std::optional<std::uint64_t> free_shm_bytes() {
  struct statvfs info {};
  // No blocks: a tmpfs without a limit. Its files take memory like any.
  if (::statvfs("/dev/shm", &info) != 0 || info.f_blocks == 0) return std::nullopt;
  return std::uint64_t{info.f_bavail} * info.f_frsize;
}

Status check_segment_room(std::size_t segment_bytes, std::size_t count, std::string_view without) {
  std::uint64_t random = 0;
  RETURN_IF_ERROR(fill_random({&random, 1}));
  const auto made = Segment::create(
      make_segment_name(::geteuid(), random, SegmentDirection::kRequest), std::size_t{4096});
  if (!made.ok()) {
    return {StatusCode::kResourceExhausted,
            "no file can be made in /dev/shm, which ring segments need: {}; mount a tmpfs there "
            "that this user may write to, or give {}",
            made.status().message(), without};
  }
  const std::uint64_t need = std::uint64_t{segment_bytes} * count;
  const auto have = free_shm_bytes();
  if (!have || *have >= need) return check_sealed_room(segment_bytes, count, without);
  return {StatusCode::kResourceExhausted,
          "/dev/shm has too little room for {} ring segments: it needs {}, free are {}; give fewer "
          "--ring-slots, smaller --ring-slot-bytes or {}, or enlarge /dev/shm ({})",
          count,
          size_text(need),
          size_text(*have),
          without,
          kHowToEnlargeShm};
}

Status check_sealed_room(std::size_t segment_bytes, std::size_t count, std::string_view without) {
  const std::uint64_t need = std::uint64_t{segment_bytes} * count;
  const auto have = memory_available_bytes();
  if (!have || *have >= need) return {};
  return {
      StatusCode::kResourceExhausted,
      "too little memory for {} ring segments: they need {}, {} are free here (of the machine's "
      "memory, and of what control groups allow); give fewer --ring-slots, smaller "
      "--ring-slot-bytes or {}",
      count,
      size_text(need),
      size_text(*have),
      without};
}

std::string segment_room_advice(std::uint64_t need, std::optional<std::uint64_t> have,
                                std::size_t max_clients) {
  return advice("/dev/shm", kHowToEnlargeShm, need, have, max_clients);
}

std::string sealed_room_advice(std::uint64_t need, std::optional<std::uint64_t> have,
                               std::size_t max_clients) {
  return advice("memory", "--memory of podman and docker, resources.limits.memory of Kubernetes",
                need, have, max_clients);
}

}  // namespace airlock
