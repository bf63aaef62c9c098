// The C names and the C++ header over them, from the shared library.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <airlock_pool.hpp>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/client/pool_server.h"

namespace airlock::testing {
namespace {

using ::testing::HasSubstr;

TEST(AirlockPool, multiplies_through_the_cxx_header) {
  const PoolServer server;
  pool::Pool session(server.endpoint());
  auto a = session.alloc<double>(pool::Use::in, {50, 40});
  auto b = session.alloc<double>(pool::Use::in, {40, 60});
  auto c = session.alloc<double>(pool::Use::out, {50, 60});
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<double>(i % 7);
  std::vector<double> values(b.size());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i % 5);
  b.copy_in(values.data(), values.size());
  session.matmul(a, b, pool::Transpose::none, c);
  double sum = 0;
  for (std::size_t k = 0; k < 40; ++k) sum += a[3 * 40 + k] * b[k * 60 + 7];
  double copied = 0;
  c.copy_out(&copied, 1, 3 * 60 + 7);
  EXPECT_EQ(copied, sum);
  EXPECT_TRUE(a.is_inside());
  EXPECT_EQ(session.stats().arrays, 3U);
  EXPECT_THAT(session.device(), HasSubstr("cpu"));
  EXPECT_THAT(std::string(airlock_pool_version()), HasSubstr("protocol"));
  try {
    session.matmul(a, a, pool::Transpose::none, c);
    FAIL();
  } catch (const pool::Error& error) {
    EXPECT_EQ(error.status(), AIRLOCK_INVALID);
    EXPECT_THAT(error.what(), HasSubstr("k is 40 and 50"));
  }
  session.close();
  a[0] = 1;  // outlives it
}

TEST(AirlockPool, answers_bad_arguments) {
  const PoolServer server;
  airlock_pool_options options = pool::Pool::options_for(server.endpoint().c_str());
  airlock_pool* pool = nullptr;
  EXPECT_EQ(airlock_pool_connect(&options, nullptr), AIRLOCK_INVALID);
  options.struct_size = 3;
  EXPECT_EQ(airlock_pool_connect(&options, &pool), AIRLOCK_INVALID);
  EXPECT_THAT(airlock_pool_error(), HasSubstr("struct_size"));
  options.struct_size = 4097;  // nobody looks what is there
  EXPECT_EQ(airlock_pool_connect(&options, &pool), AIRLOCK_INVALID);
  EXPECT_THAT(airlock_pool_error(), HasSubstr("struct_size of the options is 4097"));
  struct {
    airlock_pool_options known;
    std::uint64_t unknown;
  } later{options, 1};  // a later program's
  later.known.struct_size = sizeof(later);
  EXPECT_EQ(airlock_pool_connect(&later.known, &pool), AIRLOCK_INVALID);
  EXPECT_THAT(airlock_pool_error(), HasSubstr("does not know"));
  options.struct_size = sizeof(options);
  options.key_file = "alice.key";
  EXPECT_EQ(airlock_pool_connect(&options, &pool), AIRLOCK_INVALID);
  EXPECT_THAT(airlock_pool_error(), HasSubstr("only alice.key is given"));
  options.server_key_file = "server.pub";
  EXPECT_EQ(airlock_pool_connect(&options, &pool), AIRLOCK_INVALID);
  EXPECT_THAT(airlock_pool_error(), HasSubstr("tcp"));
  options.struct_size = offsetof(airlock_pool_options, lease_bytes);  // an older program's
  ASSERT_EQ(airlock_pool_connect(&options, &pool), AIRLOCK_OK) << airlock_pool_error();
  EXPECT_STREQ(airlock_pool_error(), "");

  const std::int64_t shape[] = {8, 8};
  const std::int64_t negative[] = {8, -8};
  airlock_array* array = nullptr;
  const auto alloc = [&](int use, int dtype, std::size_t rank, const std::int64_t* extents) {
    return airlock_pool_alloc(pool, static_cast<airlock_use>(use),
                              static_cast<airlock_dtype>(dtype), rank, extents, &array);
  };
  EXPECT_EQ(alloc(3, AIRLOCK_FP32, 2, shape), AIRLOCK_INVALID);
  EXPECT_EQ(alloc(-1, AIRLOCK_FP32, 2, shape), AIRLOCK_INVALID);
  EXPECT_EQ(alloc(AIRLOCK_IN, 0, 2, shape), AIRLOCK_INVALID);
  EXPECT_EQ(alloc(AIRLOCK_IN, 7, 2, shape), AIRLOCK_INVALID);
  EXPECT_EQ(alloc(AIRLOCK_IN, AIRLOCK_FP32, 0, shape), AIRLOCK_INVALID);
  EXPECT_EQ(alloc(AIRLOCK_IN, AIRLOCK_FP32, 99, shape), AIRLOCK_INVALID);
  EXPECT_EQ(alloc(AIRLOCK_IN, AIRLOCK_FP32, 2, negative), AIRLOCK_INVALID);
  EXPECT_EQ(alloc(AIRLOCK_IN, AIRLOCK_FP32, 2, nullptr), AIRLOCK_INVALID);
  EXPECT_EQ(array, nullptr);
  ASSERT_EQ(alloc(AIRLOCK_IN, AIRLOCK_FP32, 2, shape), AIRLOCK_OK);
  EXPECT_EQ(airlock_array_bytes(array), 256U);
  char bytes[256] = {};
  EXPECT_EQ(airlock_array_copy_in(array, 1, bytes, 256), AIRLOCK_INVALID);
  EXPECT_EQ(airlock_array_copy_out(array, SIZE_MAX, bytes, 2), AIRLOCK_INVALID);
  EXPECT_EQ(airlock_array_copy_in(array, 0, bytes, 256), AIRLOCK_OK);
  airlock_job* job = nullptr;
  EXPECT_EQ(airlock_pool_matmul_start(array, array, static_cast<airlock_transpose>(3), array, &job),
            AIRLOCK_INVALID);
  EXPECT_EQ(airlock_pool_matmul_start(array, nullptr, AIRLOCK_NO_TRANSPOSE, array, &job),
            AIRLOCK_INVALID);
  EXPECT_EQ(airlock_job_wait(nullptr), AIRLOCK_INVALID);
  const std::int64_t huge[] = {1 << 20};
  airlock_array* larger = nullptr;
  EXPECT_EQ(airlock_pool_alloc(pool, AIRLOCK_IN, AIRLOCK_FP32, 1, huge, &larger), AIRLOCK_NO_ROOM);
  EXPECT_THAT(airlock_pool_error(), HasSubstr("no room for 4194304 bytes"));
  airlock_array_free(nullptr);
  EXPECT_THAT(airlock_pool_error(), HasSubstr("no room"));  // a free says nothing

  struct {
    airlock_pool_stats stats;
    std::uint64_t guard = 77;
  } room{};
  room.stats.struct_size = sizeof(room.stats);
  EXPECT_EQ(airlock_pool_get_stats(pool, &room.stats), AIRLOCK_OK);
  EXPECT_EQ(room.stats.use[0].leased_bytes, 2 * PoolServer::kSlot);
  EXPECT_EQ(room.stats.arrays, 1U);
  EXPECT_EQ(room.guard, 77U);
  room.stats.struct_size = 0;
  EXPECT_EQ(airlock_pool_get_stats(pool, &room.stats), AIRLOCK_INVALID);
  airlock_pool_close(pool);
  EXPECT_EQ(airlock_array_bytes(array), 256U);
  airlock_array_free(array);
  airlock_job_free(nullptr);
  airlock_pool_close(nullptr);
  EXPECT_EQ(airlock_pool_check(nullptr), AIRLOCK_INVALID);
}

TEST(AirlockPool, may_be_ended_while_other_threads_use_it) {
  const PoolServer server;
  pool::Pool session(server.endpoint());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&session] {
      try {
        for (;;) {
          auto a = session.alloc<double>(pool::Use::in, {40, 40});
          auto b = session.alloc<double>(pool::Use::out, {40, 40});
          session.matmul(a, a, pool::Transpose::none, b);
        }
      } catch (const pool::Error& error) {
        EXPECT_EQ(error.status(), AIRLOCK_UNAVAILABLE) << error.what();
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  session.close();
  session.close();
  for (std::thread& thread : threads) thread.join();
}

TEST(AirlockPool, errors_are_each_threads_own) {
  EXPECT_EQ(airlock_job_wait(nullptr), AIRLOCK_INVALID);
  std::thread([] { EXPECT_STREQ(airlock_pool_error(), ""); }).join();
  EXPECT_THAT(airlock_pool_error(), HasSubstr("NULL"));
}

}  // namespace
}  // namespace airlock::testing
