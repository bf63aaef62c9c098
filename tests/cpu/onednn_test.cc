#include <gtest/gtest.h>

#include <future>
#include <new>

#include "runtime/cpu/onednn.h"

namespace airlock::onednn {
namespace {

TEST(Guarded, is_what_its_body_says) {
  EXPECT_TRUE(guarded([] { return Status(); }).ok());
  EXPECT_EQ(guarded([] { return Status(StatusCode::kUsage, "no"); }).code(), StatusCode::kUsage);
}

TEST(Guarded, says_that_memory_lacks_whoever_found_it_out) {
  EXPECT_EQ(guarded([]() -> Status { throw std::bad_alloc(); }).code(),
            StatusCode::kResourceExhausted);
  EXPECT_EQ(guarded([]() -> Status { throw dnnl::error(dnnl_out_of_memory, "no"); }).code(),
            StatusCode::kResourceExhausted);
  EXPECT_EQ(guarded([]() -> Status { throw dnnl::error(dnnl_unimplemented, "no"); }).code(),
            StatusCode::kInternal);
  // As where another thread was to make what this one waits for, and did not.
  std::future<int> made = std::promise<int>().get_future();
  const Status status = guarded([&]() -> Status {
    made.get();
    return {};
  });
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace airlock::onednn
