#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace airlock {

/// Data that may not be in this tree: beside it, or where AIRLOCK_SHARED says. AIRLOCK_SOURCE_DIR
/// is the program's.
inline std::filesystem::path shared_data() {
  const char* folder = std::getenv("AIRLOCK_SHARED");
  return folder != nullptr ? std::filesystem::path(folder)
                           : std::filesystem::path(AIRLOCK_SOURCE_DIR) / ".." / "shared" / "data";
}

/// The elements behind a .npy header of version 1; none where there is no such file.
template <typename T>
std::vector<T> read_npy(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.size() < 10) return {};
  const std::size_t start =
      10U + static_cast<unsigned char>(text[8]) + 256U * static_cast<unsigned char>(text[9]);
  std::vector<T> values((text.size() - start) / sizeof(T));
  std::copy_n(text.data() + start, values.size() * sizeof(T),
              reinterpret_cast<char*>(values.data()));
  return values;
}

}  // namespace airlock
