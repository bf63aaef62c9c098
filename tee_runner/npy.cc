#include "tee_runner/npy.h"

#include <fmt/format.h>

#include <span>
#include <string>

#include "base/file.h"

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

}  // namespace

Status write_npy(const std::string& path, TensorView tensor) {
  CHECK(tensor.desc.dtype == DType::kF32);
  const std::span<const std::byte> data = tensor.bytes();
  return write_file_atomically(path, {npy_header(tensor.desc.shape),
                                      {reinterpret_cast<const char*>(data.data()), data.size()}});
}

}  // namespace airlock
