#include "base/log.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

#include "base/log_limiter.h"

namespace airlock {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kStart = 1'000 * kSecond;

/// What was logged since CaptureStderr().
std::string logged() { return ::testing::internal::GetCapturedStderr(); }

std::string lines(int count, const std::string& text) {
  std::string all;
  for (int i = 0; i < count; ++i) all += "airlock: warning: " + text + "\n";
  return all;
}

TEST(Log, line_is_one_line_whatever_a_peer_says) {
  EXPECT_EQ(log_line(LogLevel::kInfo, "plain"), "airlock: plain\n");
  EXPECT_EQ(log_line(LogLevel::kWarning, "a peer\nairlock: error: \x1b[2J\xc2\x9b\xe2\x80\xae\xff"),
            "airlock: warning: a peer airlock: error: ?[2J??????\n");
}

TEST(LogLimiter, logs_a_burst_and_then_one_line_a_second) {
  ::testing::internal::CaptureStderr();
  LogLimiter limiter;
  for (int i = 0; i < 1'000; ++i) limiter.log(LogLevel::kWarning, "junk", kStart);
  EXPECT_EQ(logged(), lines(10, "junk"));
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 1'000; ++i) limiter.log(LogLevel::kWarning, "junk", kStart + kSecond);
  EXPECT_EQ(logged(), lines(1, "junk (and 990 more like it)"));
}

TEST(LogLimiter, says_what_nothing_follows) {
  LogLimiter limiter;
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 17; ++i) limiter.log(LogLevel::kWarning, "junk", kStart);
  limiter.tell(LogLevel::kWarning, "junk", kStart);
  EXPECT_EQ(logged(), lines(10, "junk"));
  ::testing::internal::CaptureStderr();
  limiter.tell(LogLevel::kWarning, "junk", kStart + kSecond);
  limiter.tell(LogLevel::kWarning, "junk", kStart + 2 * kSecond);
  EXPECT_EQ(logged(), lines(1, "7 more lines about junk"));
}

TEST(LogLimiter, forgets_a_flood_once_it_is_over) {
  LogLimiter limiter;
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 10; ++i) limiter.log(LogLevel::kWarning, "junk", kStart);
  for (int i = 0; i < 20; ++i) limiter.log(LogLevel::kWarning, "junk", kStart + 10 * kSecond);
  EXPECT_EQ(logged(), lines(20, "junk"));
}

}  // namespace
}  // namespace airlock
