#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

namespace airlock::testing {

/// The golden vectors of the exact linear, where they are: their README has every layout. None of
/// them may be in this tree. AIRLOCK_SOURCE_DIR is the program's.
inline std::filesystem::path golden_otp() {
  return std::filesystem::path(AIRLOCK_SOURCE_DIR) / "../shared/data/golden-otp";
}

inline std::string read_golden(const std::string& name) {
  std::ifstream file(golden_otp() / name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The elements behind a .npy header of version 1; none where there is no such file.
template <typename T>
std::vector<T> read_golden_npy(const std::string& name) {
  const std::string text = read_golden(name + ".npy");
  if (text.size() < 10) return {};
  const std::size_t start =
      10U + static_cast<unsigned char>(text[8]) + 256U * static_cast<unsigned char>(text[9]);
  std::vector<T> values((text.size() - start) / sizeof(T));
  std::copy_n(text.data() + start, values.size() * sizeof(T),
              reinterpret_cast<char*>(values.data()));
  return values;
}

inline nlohmann::json read_golden_json(const std::string& name) {
  return nlohmann::json::parse(read_golden(name));
}

}  // namespace airlock::testing

/// Skips a test, with the reason, where the vectors are not.
#define SKIP_WITHOUT_GOLDEN_OTP()                                               \
  if (!std::filesystem::exists(::airlock::testing::golden_otp() / "keys.json")) \
  GTEST_SKIP() << "no golden vectors in " << ::airlock::testing::golden_otp()
