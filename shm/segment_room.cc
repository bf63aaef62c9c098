#include "shm/segment_room.h"

#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/available_memory.h"
#include "base/file.h"
#include "base/random.h"
#include "shm/segment.h"

namespace airlock {
namespace {

std::string size_text(std::uint64_t bytes) {
  const auto count = static_cast<double>(bytes);
  return bytes >> 30 != 0 ? fmt::format("{:.1f} GiB", count / (1 << 30))
                          : fmt::format("{:.1f} MiB", count / (1 << 20));
}

}  // namespace

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
  struct statvfs info {};
  if (::statvfs("/dev/shm", &info) != 0) {
    return {StatusCode::kResourceExhausted,
            "cannot look at /dev/shm: {}; mount a tmpfs there, or "
            "give {}",
            os_message(errno), without};
  }
  const std::uint64_t need = std::uint64_t{segment_bytes} * count;
  const std::uint64_t have = std::uint64_t{info.f_bavail} * info.f_frsize;
  // No blocks: a tmpfs without a limit. Its files take memory like any.
  if (info.f_blocks == 0 || have >= need) return check_sealed_room(segment_bytes, count, without);
  return {StatusCode::kResourceExhausted,
          "/dev/shm has too little room for {} ring segments: it needs {}, free are {}; give fewer "
          "--ring-slots, smaller --ring-slot-bytes or {}, or enlarge /dev/shm",
          count,
          size_text(need),
          size_text(have),
          without};
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

}  // namespace airlock
