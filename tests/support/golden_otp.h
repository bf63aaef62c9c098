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

#include "tests/support/shared_data.h"

namespace airlock::testing {

/// The golden vectors of the exact linear, where they are: their README has every layout.
inline std::filesystem::path golden_otp() { return shared_data() / "golden-otp"; }

inline std::string read_golden(const std::string& name) {
  std::ifstream file(golden_otp() / name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <typename T>
std::vector<T> read_golden_npy(const std::string& name) {
  return read_npy<T>(golden_otp() / (name + ".npy"));
}

inline nlohmann::json read_golden_json(const std::string& name) {
  return nlohmann::json::parse(read_golden(name));
}

}  // namespace airlock::testing

/// Skips a test, with the reason, where the vectors are not.
#define SKIP_WITHOUT_GOLDEN_OTP()                                               \
  if (!std::filesystem::exists(::airlock::testing::golden_otp() / "keys.json")) \
  GTEST_SKIP() << "no golden vectors in " << ::airlock::testing::golden_otp()
