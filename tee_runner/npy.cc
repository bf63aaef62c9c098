#include "tee_runner/npy.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <span>

#include "base/unique_fd.h"

namespace airlock {

namespace {

std::string npy_header(const Shape& shape) {
  std::string extents = fmt::format("{}", fmt::join(shape.extents(), ", "));
  if (shape.rank() == 1) extents += ',';  // a tuple of one: (5,)
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", extents);
  constexpr std::size_t kPreamble = 10;  // magic, version, length
  header.append(63 - (kPreamble + header.size()) % 64, ' ');
  header.push_back('\n');
  std::string text("\x93NUMPY\x01\x00", 8);
  text.push_back(static_cast<char>(header.size() & 0xff));
  text.push_back(static_cast<char>(header.size() >> 8));
  return text + header;
}

bool write_all(int fd, const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(fd, at, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    at += written;
    size -= static_cast<std::size_t>(written);
  }
  return true;
}

Status failed(const std::string& path, int error) {
  return {StatusCode::kInvalidInput,
          fmt::format("cannot write {}: {}", path, std::strerror(error))};
}

}  // namespace

Status write_npy(const std::string& path, TensorView tensor) {
  CHECK(tensor.desc.dtype == DType::kF32);
  const std::string beside = fmt::format("{}.{}.part", path, ::getpid());
  ::unlink(beside.c_str());  // of a process of this id that died
  const UniqueFd fd(
      ::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return failed(path, errno);
  const std::string header = npy_header(tensor.desc.shape);
  const bool written = write_all(fd.get(), header.data(), header.size()) &&
                       write_all(fd.get(), tensor.data, tensor.desc.bytes());
  if (!written || ::rename(beside.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(beside.c_str());
    return failed(path, error);
  }
  return {};
}

}  // namespace airlock
