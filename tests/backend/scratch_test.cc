#include "runtime/scratch.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

namespace airlock {
namespace {

TEST(ScratchPool, gives_the_same_pages_again) {
  ScratchPool pool;
  std::byte* first = nullptr;
  {
    auto buffer = pool.take(100000);
    ASSERT_TRUE(buffer.ok());
    first = buffer->data();
    std::memset(first, 1, 100000);
  }
  auto again = pool.take(99000);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->data(), first);
}

TEST(ScratchPool, keeps_buffers_in_use_apart) {
  ScratchPool pool;
  auto a = pool.take(5000);
  auto b = pool.take(5000);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_NE(a->data(), b->data());
}

TEST(ScratchPool, bounds_what_it_keeps) {
  ScratchPool pool;
  for (std::size_t megabytes = 1; megabytes < 200; megabytes += 3) {
    std::vector<ScratchPool::Buffer> held;
    for (int i = 0; i < 8; ++i) {
      auto buffer = pool.take(megabytes << 20);
      ASSERT_TRUE(buffer.ok());
      held.push_back(std::move(*buffer));
    }
  }
  EXPECT_LE(pool.idle_bytes(), std::size_t{512} << 20);
}

TEST(ScratchPool, says_when_there_is_no_memory) {
  ScratchPool pool;
  for (const std::size_t bytes :
       {std::size_t{1} << 60, std::numeric_limits<std::size_t>::max() / 4}) {
    auto buffer = pool.take(bytes);
    ASSERT_FALSE(buffer.ok());
    EXPECT_EQ(buffer.status().code(), StatusCode::kResourceExhausted);
  }
}

TEST(PageBuffer, is_zero_at_first) {
  auto pages = PageBuffer::allocate(3 << 20);
  ASSERT_TRUE(pages.ok());
  for (std::size_t i = 0; i < pages->bytes(); ++i) ASSERT_EQ(pages->data()[i], std::byte{0});
}

}  // namespace
}  // namespace airlock
