#include "runtime/program/program.h"

#include <gtest/gtest.h>

#include <new>
#include <optional>
#include <stdexcept>
#include <string>

namespace airlock {
namespace {

/// What a program whose run does `body` logs, with its exit code before it.
template <typename Body>
std::string ended(const Body& body) {
  ::testing::internal::CaptureStderr();
  const int code = run_program(
      "program", [] { return Result<std::optional<int>>(std::optional<int>(1)); },
      [&](int) -> Status { return body(); });
  return std::to_string(code) + " " + ::testing::internal::GetCapturedStderr();
}

TEST(Program, ends_with_the_code_of_its_status) {
  EXPECT_EQ(ended([] { return Status(); }), "0 ");
  EXPECT_EQ(ended([] { return Status(StatusCode::kUsage, "no"); }), "2 program: error: no\n");
}

TEST(Program, memory_that_ran_out_is_an_error_and_no_abort) {
  EXPECT_EQ(ended([]() -> Status { throw std::bad_alloc(); }), "5 program: error: out of memory\n");
  EXPECT_EQ(ended([]() -> Status { throw std::runtime_error("odd"); }), "1 program: error: odd\n");
}

}  // namespace
}  // namespace airlock
