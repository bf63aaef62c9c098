#include "runtime/channel/buffer_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

namespace airlock {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

TEST(BufferPool, gives_page_aligned_memory_of_the_size_asked_for) {
  BufferPool pool(16 * kMiB);
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{4096}, std::size_t{4097}, 3 * kMiB + 5}) {
    auto buffer = pool.take(size);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ(buffer->bytes().size(), size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->bytes().data()) % 4096, 0u);
    buffer->bytes().back() = std::byte{1};
  }
}

TEST(BufferPool, reuses_a_buffer_that_came_home) {
  BufferPool pool(16 * kMiB);
  const std::byte* first = nullptr;
  {
    auto buffer = pool.take(kMiB);
    ASSERT_TRUE(buffer.ok());
    first = buffer->bytes().data();
    EXPECT_EQ(pool.cached_bytes(), 0u);
  }
  EXPECT_EQ(pool.cached_bytes(), kMiB);
  auto again = pool.take(kMiB - 10);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->bytes().data(), first);
}

TEST(BufferPool, keeps_no_more_than_its_limit) {
  BufferPool pool(2 * kMiB);
  std::vector<PooledBuffer> buffers;
  for (int i = 0; i < 4; ++i) buffers.push_back(pool.take(kMiB).value());
  buffers.clear();
  EXPECT_EQ(pool.cached_bytes(), 2 * kMiB);
}

TEST(BufferPool, buffer_outlives_its_pool) {
  std::optional<BufferPool> pool(std::in_place, 2 * kMiB);
  PooledBuffer buffer = pool->take(kMiB).value();
  pool.reset();
  buffer.bytes().front() = std::byte{7};
  EXPECT_EQ(buffer.bytes().front(), std::byte{7});
}

TEST(BufferPool, buffer_may_come_home_from_another_thread) {
  BufferPool pool(2 * kMiB);
  PooledBuffer buffer = pool.take(kMiB).value();
  std::thread([moved = std::move(buffer)]() mutable { moved = PooledBuffer(); }).join();
  EXPECT_EQ(pool.cached_bytes(), kMiB);
}

TEST(BufferPool, says_no_where_the_system_has_no_memory) {
  BufferPool pool(0);
  EXPECT_EQ(pool.take(std::size_t{1} << 60).status().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(pool.take(0).value().bytes().empty());
}

}  // namespace
}  // namespace airlock
