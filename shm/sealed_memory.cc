#include "shm/sealed_memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstdint>

#include "base/file.h"

namespace airlock {
namespace {

/// What keeps the size as it is, for ever.
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

}  // namespace

Result<UniqueFd> make_sealed_memory(const std::string& name, std::size_t bytes) {
  UniqueFd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return os_error("make shared memory", errno);
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0)
    return os_error("size shared memory", errno);
  if (::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) return os_error("seal shared memory", errno);
  return fd;
}

Status check_sealed_memory(const UniqueFd& memory, std::size_t bytes) {
  struct stat info = {};
  if (::fstat(memory.get(), &info) != 0) return os_error("stat a segment", errno);
  const int seals = ::fcntl(memory.get(), F_GET_SEALS);
  struct statfs system = {};
  const bool is_plain = ::fstatfs(memory.get(), &system) == 0 && system.f_type == TMPFS_MAGIC;
  if (!is_plain || !S_ISREG(info.st_mode) || seals < 0 || (seals & kSeals) != kSeals) {
    return {StatusCode::kProtocolError, "the peer sent a segment that is no sealed memory"};
  }
  if (info.st_size < 0 || static_cast<std::uint64_t>(info.st_size) != bytes) {
    return {StatusCode::kProtocolError, "the peer sent a segment of {} bytes, expected {}",
            info.st_size, bytes};
  }
  return {};
}

void empty_memory(const UniqueFd& memory, std::size_t bytes) {
  (void)::fallocate(memory.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    static_cast<off_t>(bytes));
}

}  // namespace airlock
