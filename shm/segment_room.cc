#include "shm/segment_room.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/file.h"
#include "base/unique_fd.h"
#include "shm/segment.h"

namespace airlock {
namespace {

std::string size_text(std::uint64_t bytes) {
  const auto count = static_cast<double>(bytes);
  return bytes >> 30 != 0 ? fmt::format("{:.1f} GiB", count / (1 << 30))
                          : fmt::format("{:.1f} MiB", count / (1 << 20));
}

/// The value of errno; 0: a file was made and removed.
int try_to_create() {
  std::uint64_t random = 0;
  if (::getrandom(&random, sizeof(random), 0) != sizeof(random)) return errno;
  // A segment's name: one that is left behind is swept as a dead owner's.
  const std::string path =
      "/dev/shm/" + make_segment_name(::geteuid(), random, SegmentDirection::kRequest);
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  return fd.valid() && ::unlink(path.c_str()) == 0 ? 0 : errno;
}

}  // namespace

Status check_segment_room(std::size_t segment_bytes, std::size_t count, std::string_view without) {
  if (const int error = try_to_create(); error != 0) {
    return {StatusCode::kResourceExhausted,
            "no file can be made in /dev/shm, which ring segments need: {}; mount a tmpfs there "
            "that this user may write to, or give {}",
            os_message(error), without};
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
  if (info.f_blocks == 0 || have >= need) return {};  // no blocks: a tmpfs without a limit
  return {StatusCode::kResourceExhausted,
          "/dev/shm has too little room for {} ring segments: it needs {}, free are {}; give fewer "
          "--ring-slots, smaller --ring-slot-bytes or {}, or enlarge /dev/shm",
          count,
          size_text(need),
          size_text(have),
          without};
}

}  // namespace airlock
