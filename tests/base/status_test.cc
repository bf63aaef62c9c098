#include "base/status.h"

#include <gtest/gtest.h>

#include <chrono>
#include <iterator>
#include <memory>

#include "base/deadline.h"

namespace airlock {
namespace {

TEST(Status, is_ok_by_default) {
  EXPECT_TRUE(Status().ok());
  EXPECT_EQ(Status().to_string(), "ok");
}

TEST(Status, says_kind_and_message) {
  EXPECT_EQ(Status(StatusCode::kProtocolError, "id 7").to_string(), "protocol error: id 7");
}

TEST(Status, context_goes_before_the_message_and_keeps_the_code) {
  const Status status = Status(StatusCode::kDevice, "no memory").with_context("cuda:0");
  EXPECT_EQ(status.code(), StatusCode::kDevice);
  EXPECT_EQ(status.message(), "cuda:0: no memory");
  EXPECT_TRUE(Status().with_context("nothing").ok());
}

TEST(Status, every_code_has_the_exit_code_of_the_interface) {
  const std::pair<StatusCode, int> cases[] = {{StatusCode::kOk, 0},
                                              {StatusCode::kUsage, 2},
                                              {StatusCode::kInvalidInput, 1},
                                              {StatusCode::kUnavailable, 3},
                                              {StatusCode::kDeadlineExceeded, 3},
                                              {StatusCode::kProtocolError, 3},
                                              {StatusCode::kMismatch, 4},
                                              {StatusCode::kVersionMismatch, 3},
                                              {StatusCode::kResourceExhausted, 5},
                                              {StatusCode::kInUse, 5},
                                              {StatusCode::kDevice, 5},
                                              {StatusCode::kCancelled, 3},
                                              {StatusCode::kInternal, 1},
                                              {StatusCode::kBusy, 5}};
  EXPECT_EQ(std::size(cases), kCountOf<StatusCode>);
  for (const auto& [code, expected] : cases) {
    EXPECT_EQ(exit_code(code), expected) << name_of(code);
    EXPECT_NE(name_of(code), "");
  }
}

Result<int> half(int value) {
  if (value % 2 != 0) return Status(StatusCode::kInvalidInput, "odd");
  return value / 2;
}

Result<int> quarter(int value) {
  ASSIGN_OR_RETURN(const int first, half(value));
  ASSIGN_OR_RETURN(const int second, half(first));
  return second;
}

Status check_half(int value) {
  RETURN_IF_ERROR(half(value).status());
  return {};
}

TEST(Result, passes_values_and_the_first_error_up) {
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_EQ(quarter(6).status().message(), "odd");
  EXPECT_TRUE(check_half(4).ok());
  EXPECT_EQ(check_half(3).code(), StatusCode::kInvalidInput);
}

TEST(Result, carries_what_can_only_be_moved) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(3));
  const std::unique_ptr<int> taken = std::move(result).value();
  EXPECT_EQ(*taken, 3);
}

TEST(ResultDeathTest, reading_a_failed_result_is_our_own_bug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH((void)half(3).value(), "CHECK failed");
}

TEST(Deadline, now_is_over_at_once) {
  EXPECT_TRUE(Deadline::now().expired());
  EXPECT_EQ(Deadline::now().remaining().count(), 0);
}

TEST(Deadline, has_time_left_until_it_is_over) {
  const Deadline deadline = Deadline::after(std::chrono::hours(1));
  EXPECT_FALSE(deadline.expired());
  EXPECT_GT(deadline.remaining(), std::chrono::minutes(59));
}

TEST(Deadline, is_over_in_the_past_and_never_negative) {
  const Deadline deadline = Deadline::after(std::chrono::seconds(-1));
  EXPECT_TRUE(deadline.expired());
  EXPECT_EQ(deadline.remaining().count(), 0);
}

TEST(Deadline, a_slice_ends_no_later_than_the_whole) {
  EXPECT_TRUE(Deadline::now().slice(std::chrono::hours(1)).expired());
  const Deadline slice = Deadline::after(std::chrono::hours(2)).slice(std::chrono::hours(1));
  EXPECT_FALSE(slice.expired());
  EXPECT_LE(slice.remaining(), std::chrono::hours(1));
}

}  // namespace
}  // namespace airlock
