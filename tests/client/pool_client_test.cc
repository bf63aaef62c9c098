// Arrays of one's own and their products, against a whole server in this process.

#include "client/pool_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "tests/client/pool_server.h"
#include "tests/support/reference_ops.h"

namespace airlock::testing {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kLease = 2 * PoolServer::kSlot;
using Array = std::unique_ptr<PoolArray>;

class PoolClientTest : public ::testing::Test {
 protected:
  PoolClientOptions options() const {
    PoolClientOptions options;
    options.endpoint = server_.endpoint();
    options.timeout = std::chrono::seconds(20);
    return options;
  }
  std::shared_ptr<PoolClient> connect() const { return PoolClient::connect(options()).value(); }

  static Array alloc(PoolClient& client, PoolUse use, const TensorDesc& desc) {
    return client.alloc(use, desc).value();
  }
  /// Once there is room: the server may still use what was dropped.
  static Array alloc_soon(PoolClient& client, PoolUse use, const TensorDesc& desc) {
    const Deadline give_up = Deadline::after(std::chrono::seconds(30));
    for (;;) {
      auto array = client.alloc(use, desc);
      if (array.ok() || give_up.expired()) return std::move(array).value();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  /// With small whole numbers, whose products no type rounds.
  static Array filled(PoolClient& client, PoolUse use, const TensorDesc& desc, int seed) {
    Array array = alloc(client, use, desc);
    for (std::size_t i = 0; i < desc.elements(); ++i) {
      const int value = static_cast<int>((i * 7 + static_cast<std::size_t>(seed)) % 11) - 5;
      put(*array, i, value);
    }
    return array;
  }
  static void put(PoolArray& array, std::size_t index, double value) {
    const MutableTensorView view{array.bytes().data(), array.desc()};
    if (array.desc().dtype == DType::kF64) {
      view.as<double>()[index] = value;
    } else {
      view.as<float>()[index] = static_cast<float>(value);
    }
  }
  static double at(const PoolArray& array, std::size_t index) {
    const TensorView view{array.bytes().data(), array.desc()};
    return array.desc().dtype == DType::kF64 ? view.as<double>()[index]
                                             : static_cast<double>(view.as<float>()[index]);
  }
  /// result = a x b of square matrices.
  static void expect_product(const PoolArray& a, const PoolArray& b, const PoolArray& result) {
    const auto n = static_cast<std::size_t>(a.desc().shape[0]);
    for (std::size_t i = 0; i < n * n; i += 7) {
      double sum = 0;
      for (std::size_t k = 0; k < n; ++k) sum += at(a, i / n * n + k) * at(b, k * n + i % n);
      ASSERT_EQ(at(result, i), sum) << i;
    }
  }
  static void multiply(PoolClient& client, PoolArray& a, PoolArray& b, PoolArray& result) {
    const auto job = client.start_matmul(a, b, Transpose::kNone, result);
    ASSERT_TRUE(job.ok()) << job.status().to_string();
    const Status status = (*job)->wait();
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_TRUE((*job)->wait().ok());
  }
  static TensorDesc square(DType dtype, std::int64_t n) { return {dtype, Shape{n, n}}; }

  PoolServer server_;
};

TEST_F(PoolClientTest, multiplies_arrays_wherever_they_live) {
  const auto client = connect();
  EXPECT_THAT(client->device(), HasSubstr("cpu, OpenBLAS"));
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    // Within the message, and in the lease.
    for (const std::int64_t n : {3, 30, 120, 300}) {
      SCOPED_TRACE(std::string(name_of(dtype)) + " " + std::to_string(n));
      const Array a = filled(*client, PoolUse::kInput, square(dtype, n), 1);
      const Array b = filled(*client, PoolUse::kScratch, square(dtype, n), 2);
      const Array result = alloc(*client, PoolUse::kOutput, square(dtype, n));
      EXPECT_EQ(a->is_inside(), a->bytes().size() >= 10240);
      multiply(*client, *a, *b, *result);
      expect_product(*a, *b, *result);
    }
  }
  const PoolClientFigures figures = client->figures();
  EXPECT_EQ(figures.transport[Path::kZmq].sent.tensors, 0U);
  EXPECT_EQ(figures.transport[Path::kPool].fallbacks, 0U);
  EXPECT_EQ(figures.products, 8U);
  EXPECT_EQ(figures.arrays, 0U);
}

TEST_F(PoolClientTest, transposes_and_shares_groups) {
  const auto client = connect();
  const Array a = filled(*client, PoolUse::kInput, {DType::kF64, Shape{4, 90, 50}}, 1);
  const Array b = filled(*client, PoolUse::kInput, {DType::kF64, Shape{2, 70, 50}}, 2);
  const Array result = alloc(*client, PoolUse::kOutput, {DType::kF64, Shape{4, 90, 70}});
  const auto job = client->start_matmul(*a, *b, Transpose::kB, *result);
  ASSERT_TRUE(job.ok() && (*job)->wait().ok());
  for (const std::size_t head : {0, 1, 3}) {
    for (const std::size_t i : {0, 77, 6299}) {
      double sum = 0;
      for (std::size_t k = 0; k < 50; ++k) {
        sum += at(*a, head * 4500 + i / 70 * 50 + k) * at(*b, head / 2 * 3500 + i % 70 * 50 + k);
      }
      EXPECT_EQ(at(*result, head * 6300 + i), sum);
    }
  }
}

TEST_F(PoolClientTest, a_result_that_stays_is_the_next_operand_without_a_trip) {
  const auto client = connect();
  const TensorDesc desc = square(DType::kF64, 200);
  const Array a = filled(*client, PoolUse::kInput, desc, 1);
  const Array stays = alloc(*client, PoolUse::kScratch, desc);
  const Array more = alloc(*client, PoolUse::kScratch, desc);
  const Array result = alloc(*client, PoolUse::kOutput, desc);
  const auto first = client->start_matmul(*a, *a, Transpose::kNone, *stays);
  const auto second = client->start_matmul(*stays, *a, Transpose::kNone, *more);
  const auto third = client->start_matmul(*more, *a, Transpose::kNone, *result);
  ASSERT_TRUE(third.ok() && (*third)->wait().ok());
  EXPECT_TRUE((*first)->wait().ok() && (*second)->wait().ok());
  expect_product(*a, *a, *stays);
  expect_product(*stays, *a, *more);
  expect_product(*more, *a, *result);
  const TransportSnapshot transport = client->figures().transport;
  EXPECT_EQ(transport[Path::kPool].sent.tensors, 6U);
  EXPECT_EQ(transport[Path::kRing].sent.bytes + transport[Path::kZmq].sent.bytes, 0U);
}

TEST_F(PoolClientTest, says_what_is_needed_what_is_free_and_the_longest_run) {
  const auto client = connect();
  const TensorDesc half{DType::kU8, Shape{PoolServer::kSlot}};
  Array first = alloc(*client, PoolUse::kInput, half);
  const Array second = alloc(*client, PoolUse::kInput, half);
  EXPECT_EQ(client->figures().uses[PoolUse::kInput].used_bytes, kLease);
  const auto none = client->alloc(PoolUse::kInput, {DType::kU8, Shape{20000}});
  EXPECT_EQ(none.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(none.status().message(), HasSubstr("20000 bytes (in)"));
  EXPECT_THAT(none.status().message(), HasSubstr("0 of 2097152 are free"));
  first.reset();
  const PoolClientFigures::Use use = client->figures().uses[PoolUse::kInput];
  EXPECT_EQ(use.leased_bytes, kLease);
  EXPECT_EQ(use.largest_free, PoolServer::kSlot);
  EXPECT_EQ(use.high_water_bytes, kLease);
  // Its place is free again, and no other's.
  const std::byte* const place = second->bytes().data();
  for (int i = 0; i < 50; ++i) {
    const Array again = alloc(*client, PoolUse::kInput, half);
    EXPECT_NE(again->bytes().data(), place);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(again->bytes().data()) % 4096, 0U);
  }
}

TEST_F(PoolClientTest, spills_where_asked_and_counts_it) {
  PoolClientOptions spilling = options();
  spilling.spills = true;
  const auto client = PoolClient::connect(spilling).value();
  const TensorDesc desc = square(DType::kF64, 400);  // one fits
  const Array a = filled(*client, PoolUse::kInput, desc, 1);
  const Array b = filled(*client, PoolUse::kInput, desc, 2);
  const Array result = alloc(*client, PoolUse::kOutput, desc);
  EXPECT_TRUE(a->is_inside());
  EXPECT_FALSE(b->is_inside());
  multiply(*client, *a, *b, *result);
  expect_product(*a, *b, *result);
  const TransportSnapshot transport = client->figures().transport;
  EXPECT_EQ(transport[Path::kPool].fallbacks, 1U);
  EXPECT_EQ(transport[Path::kZmq].sent.tensors, 1U);
}

TEST_F(PoolClientTest, leases_what_it_asks_for) {
  PoolClientOptions asked = options();
  asked.lease = {{100'000, 0, 100'000}};
  const auto client = PoolClient::connect(asked).value();
  const PoolClientFigures figures = client->figures();
  EXPECT_EQ(figures.uses[PoolUse::kInput].leased_bytes, 102'400U);
  EXPECT_EQ(figures.uses[PoolUse::kOutput].leased_bytes, 0U);
  // Where nothing was leased an array lives here.
  EXPECT_FALSE(alloc(*client, PoolUse::kOutput, square(DType::kF64, 200))->is_inside());
}

TEST_F(PoolClientTest, copies_where_no_memory_can_be_shared) {
  PoolServer far(free_tcp_endpoint());
  PoolClientOptions remote = options();
  remote.endpoint = far.endpoint();
  const auto client = PoolClient::connect(remote).value();
  const TensorDesc desc = square(DType::kF64, 200);
  const Array a = filled(*client, PoolUse::kInput, desc, 1);
  const Array stays = alloc(*client, PoolUse::kScratch, desc);
  const Array result = alloc(*client, PoolUse::kOutput, desc);
  EXPECT_FALSE(a->is_inside());
  // The second operand is not here before the first product was waited for.
  const auto first = client->start_matmul(*a, *a, Transpose::kNone, *stays);
  const auto second = client->start_matmul(*stays, *a, Transpose::kNone, *result);
  ASSERT_TRUE(second.ok() && (*second)->wait().ok());
  EXPECT_TRUE((*first)->wait().ok());
  expect_product(*a, *a, *stays);
  expect_product(*stays, *a, *result);
  // Twice into one array: the last one stays.
  const auto third = client->start_matmul(*a, *a, Transpose::kNone, *result);
  const auto fourth = client->start_matmul(*result, *a, Transpose::kNone, *stays);
  const auto fifth = client->start_matmul(*a, *stays, Transpose::kNone, *result);
  ASSERT_TRUE((*fifth)->wait().ok() && (*third)->wait().ok() && (*fourth)->wait().ok());
  expect_product(*a, *stays, *result);
}

TEST_F(PoolClientTest, refuses_what_does_not_fit_together) {
  const auto client = connect();
  const auto other = connect();
  const Array a = alloc(*client, PoolUse::kInput, square(DType::kF32, 10));
  const Array b = alloc(*client, PoolUse::kInput, {DType::kF32, Shape{11, 10}});
  const Array result = alloc(*client, PoolUse::kOutput, square(DType::kF32, 10));
  const Array flat = alloc(*client, PoolUse::kOutput, {DType::kF32, Shape{100}});
  const Array doubles = alloc(*client, PoolUse::kOutput, square(DType::kF64, 10));
  const Array theirs = alloc(*other, PoolUse::kOutput, square(DType::kF32, 10));
  const auto refusal = [&](PoolArray& x, PoolArray& y, PoolArray& z) {
    const auto job = client->start_matmul(x, y, Transpose::kNone, z);
    EXPECT_EQ(job.status().code(), StatusCode::kInvalidInput);
    return std::string(job.status().message());
  };
  EXPECT_THAT(refusal(*a, *b, *result), HasSubstr("k is 10 and 11"));
  EXPECT_THAT(refusal(*b, *a, *result), HasSubstr("expected [11, 10]"));
  EXPECT_THAT(refusal(*a, *a, *flat), HasSubstr("rank 2 or 3"));
  EXPECT_THAT(refusal(*a, *a, *doubles), HasSubstr("fp64, or none"));
  EXPECT_THAT(refusal(*a, *a, *a), HasSubstr("operands"));
  EXPECT_THAT(refusal(*a, *a, *theirs), HasSubstr("different sessions"));
  multiply(*client, *a, *a, *result);
  for (const TensorDesc& desc :
       {TensorDesc{DType::kF32, Shape{}}, TensorDesc{DType::kF32, Shape{0}},
        TensorDesc{DType::kF64, Shape{1 << 30}},
        TensorDesc{DType::kU8, Shape{1LL << 40, 1LL << 40}}}) {
    EXPECT_EQ(client->alloc(PoolUse::kInput, desc).status().code(), StatusCode::kInvalidInput);
  }
}

TEST_F(PoolClientTest, what_is_freed_too_early_stays_until_the_server_is_through) {
  const auto client = connect();
  const TensorDesc desc = square(DType::kF64, 350);
  const Array a = filled(*client, PoolUse::kInput, desc, 1);
  {
    const Array result = alloc(*client, PoolUse::kOutput, desc);
    ASSERT_TRUE(client->start_matmul(*a, *a, Transpose::kNone, *result).ok());
  }
  EXPECT_GT(client->figures().uses[PoolUse::kOutput].used_bytes, 0U);
  const Array next = alloc(*client, PoolUse::kOutput, desc);
  multiply(*client, *a, *a, *next);
  expect_product(*a, *a, *next);
  EXPECT_EQ(client->figures().uses[PoolUse::kOutput].used_bytes, whole_pages(desc.bytes()));
}

TEST_F(PoolClientTest, what_dropped_jobs_held_is_found_when_it_is_needed) {
  const auto client = connect();
  const TensorDesc desc = square(DType::kF64, 350);  // two of them fill a lease
  const Array a = filled(*client, PoolUse::kInput, desc, 1);
  for (int i = 0; i < 10; ++i) {
    const Array result = alloc_soon(*client, PoolUse::kOutput, desc);
    // Nobody waits for it.
    ASSERT_TRUE(client->start_matmul(*a, *a, Transpose::kNone, *result).ok());
  }
}

TEST_F(PoolClientTest, the_end_of_a_chain_tells_of_a_failure_within) {
  for (const bool is_far : {false, true}) {
    PoolServer far(is_far ? free_tcp_endpoint() : std::string());
    PoolClientOptions to = options();
    to.endpoint = far.endpoint();
    const auto client = PoolClient::connect(to).value();
    const TensorDesc desc = square(DType::kF32, 130);
    const Array a = filled(*client, PoolUse::kInput, desc, 1);
    const Array stays = alloc(*client, PoolUse::kScratch, desc);
    const Array result = alloc(*client, PoolUse::kOutput, desc);
    far.model().fail_next();
    const auto first = client->start_matmul(*a, *a, Transpose::kNone, *stays);
    ASSERT_TRUE(first.ok());
    const auto second = client->start_matmul(*stays, *a, Transpose::kNone, *result);
    const Status status = second.ok() ? (*second)->wait() : second.status();
    EXPECT_FALSE(status.ok()) << is_far;
    // Told once: whoever writes it anew goes on.
    EXPECT_FALSE((*first)->wait().ok());
    const auto third = client->start_matmul(*stays, *a, Transpose::kNone, *result);
    ASSERT_TRUE(third.ok()) << third.status().to_string();
    EXPECT_TRUE((*third)->wait().ok());
  }
}

TEST_F(PoolClientTest, a_chain_without_waits_may_be_long) {
  const auto client = connect();
  const TensorDesc desc = square(DType::kF32, 52);
  const Array one = alloc(*client, PoolUse::kInput, desc);
  for (std::size_t i = 0; i < desc.elements(); ++i) put(*one, i, i % 53 == 0 ? 1 : 0);
  const Array x = filled(*client, PoolUse::kScratch, desc, 1);
  const Array y = alloc(*client, PoolUse::kScratch, desc);
  const Array kept = filled(*client, PoolUse::kInput, desc, 1);
  std::unique_ptr<PoolJob> last;
  for (int i = 0; i < 50'000; ++i) {
    auto job =
        client->start_matmul(i % 2 == 0 ? *x : *y, *one, Transpose::kNone, i % 2 == 0 ? *y : *x);
    ASSERT_TRUE(job.ok()) << job.status().to_string();
    last = std::move(job).value();
  }
  ASSERT_TRUE(last->wait().ok());
  expect_product(*kept, *one, *x);
}

TEST_F(PoolClientTest, a_failure_that_nobody_waited_for_is_told_in_the_end) {
  const auto client = connect();
  for (const std::int64_t n : {20, 60}) {  // here, and in the lease
    const Array a = filled(*client, PoolUse::kInput, square(DType::kF64, n), 1);
    const Array lost = alloc(*client, PoolUse::kScratch, a->desc());
    const Array other = alloc(*client, PoolUse::kScratch, a->desc());
    const Array result = alloc(*client, PoolUse::kOutput, a->desc());
    server_.model().fail_next();
    ASSERT_TRUE(client->start_matmul(*a, *a, Transpose::kNone, *lost).ok());
    (void)client->start_matmul(*a, *lost, Transpose::kNone, *other);
    multiply(*client, *a, *a, *other);
    for (int again = 0; again < 3; ++again) {
      const auto job = client->start_matmul(*a, *lost, Transpose::kNone, *result);
      const Status status = job.ok() ? (*job)->wait() : job.status();
      EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.to_string();
      EXPECT_THAT(status.message(), HasSubstr("was to write an operand"));
    }
    std::vector<std::byte> copy(lost->bytes().size());
    EXPECT_FALSE(client->copy_out(*lost, 0, copy).ok());
    EXPECT_TRUE(client->copy_in(*lost, 0, a->bytes()).ok());
    multiply(*client, *a, *lost, *result);
    expect_product(*a, *a, *result);
  }
}

TEST_F(PoolClientTest, results_of_dropped_jobs_arrive) {
  const auto client = connect();
  for (const std::int64_t n : {20, 60}) {
    const Array a = filled(*client, PoolUse::kInput, square(DType::kF64, n), 1);
    const Array dropped = filled(*client, PoolUse::kOutput, a->desc(), 3);
    ASSERT_TRUE(client->start_matmul(*a, *a, Transpose::kNone, *dropped).ok());
    std::vector<std::byte> copy(dropped->bytes().size());
    ASSERT_TRUE(client->copy_out(*dropped, 0, copy).ok());
    expect_product(*a, *a, *dropped);
    EXPECT_EQ(std::memcmp(copy.data(), dropped->bytes().data(), copy.size()), 0);
  }
}

TEST_F(PoolClientTest, operands_are_free_once_their_product_is_there) {
  const auto client = connect();
  const TensorDesc desc = square(DType::kF64, 500);  // one fills a lease
  const Array stays = alloc(*client, PoolUse::kScratch, desc);
  for (int i = 0; i < 5; ++i) {
    const Array a = alloc_soon(*client, PoolUse::kInput, desc);
    // Both are dropped, and the result lives.
    ASSERT_TRUE(client->start_matmul(*a, *a, Transpose::kNone, *stays).ok());
  }
}

TEST_F(PoolClientTest, close_ends_a_wait) {
  const auto client = connect();
  const TensorDesc desc = square(DType::kF64, 500);
  const Array a = alloc(*client, PoolUse::kInput, desc);
  const Array result = alloc(*client, PoolUse::kOutput, desc);
  std::vector<std::unique_ptr<PoolJob>> jobs;
  for (int i = 0; i < 60; ++i)
    jobs.push_back(client->start_matmul(*a, *a, Transpose::kNone, *result).value());
  std::atomic<bool> begun{false};
  Status waited;
  std::thread waiter([&] {
    begun = true;
    waited = jobs.back()->wait();
  });
  while (!begun) std::this_thread::yield();
  const std::uint64_t start_ns = now_ns();
  client->close();
  waiter.join();
  EXPECT_LT(now_ns() - start_ns, 20'000'000'000U);
  EXPECT_EQ(waited.code(), StatusCode::kUnavailable) << waited.to_string();
}

TEST_F(PoolClientTest, many_products_may_be_under_way) {
  const auto client = connect();
  const TensorDesc desc = square(DType::kF32, 60);
  const TensorDesc small = square(DType::kF32, 20);
  std::vector<Array> arrays;
  std::vector<std::unique_ptr<PoolJob>> jobs;
  const Array a = filled(*client, PoolUse::kInput, desc, 1);
  const Array b = filled(*client, PoolUse::kInput, small, 1);
  for (int i = 0; i < 100; ++i) {
    const bool large = i % 2 == 0;
    arrays.push_back(alloc(*client, PoolUse::kOutput, large ? desc : small));
    jobs.push_back(
        client->start_matmul(large ? *a : *b, large ? *a : *b, Transpose::kNone, *arrays.back())
            .value());
  }
  for (std::size_t i = jobs.size(); i-- > 0;) ASSERT_TRUE(jobs[i]->wait().ok());
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const PoolArray& operand = i % 2 == 0 ? *a : *b;
    expect_product(operand, operand, *arrays[i]);
  }
}

TEST_F(PoolClientTest, calls_of_many_threads_take_turns) {
  const auto client = connect();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 20; ++round) {
        const TensorDesc desc = square(DType::kF64, t % 2 == 0 ? 40 : 20);
        const Array a = filled(*client, PoolUse::kInput, desc, t);
        const Array result = alloc(*client, PoolUse::kOutput, desc);
        multiply(*client, *a, *a, *result);
        expect_product(*a, *a, *result);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(client->figures().arrays, 0U);
  EXPECT_EQ(client->figures().uses[PoolUse::kInput].used_bytes, 0U);
}

TEST_F(PoolClientTest, after_close_every_call_says_so) {
  const auto client = connect();
  const TensorDesc desc = square(DType::kF64, 200);
  const Array a = filled(*client, PoolUse::kInput, desc, 1);
  const Array result = alloc(*client, PoolUse::kOutput, desc);
  const auto job = client->start_matmul(*a, *a, Transpose::kNone, *result);
  ASSERT_TRUE(job.ok());
  client->close();
  client->close();
  EXPECT_EQ((*job)->wait().code(), StatusCode::kUnavailable);
  EXPECT_EQ(client->check().code(), StatusCode::kUnavailable);
  EXPECT_EQ(client->alloc(PoolUse::kInput, desc).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(client->start_matmul(*a, *a, Transpose::kNone, *result).status().code(),
            StatusCode::kUnavailable);
  a->bytes()[0] = std::byte{1};  // still ours to touch
}

TEST_F(PoolClientTest, a_server_that_ends_is_heard_of) {
  const auto client = connect();
  const TensorDesc desc = square(DType::kF64, 200);
  const Array a = filled(*client, PoolUse::kInput, desc, 1);
  const Array result = alloc(*client, PoolUse::kOutput, desc);
  server_.stop();
  std::vector<std::byte> copy(a->bytes().size());
  EXPECT_EQ(client->copy_out(*a, 0, copy).code(), StatusCode::kUnavailable);
  const auto job = client->start_matmul(*a, *a, Transpose::kNone, *result);
  EXPECT_EQ(job.ok() ? (*job)->wait().code() : job.status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(client->check().code(), StatusCode::kUnavailable);
  a->bytes()[0] = std::byte{1};
}

TEST_F(PoolClientTest, a_product_that_takes_too_long_leaves_the_session) {
  PoolClientOptions hasty = options();
  hasty.op_timeout = std::chrono::milliseconds(1);
  const auto client = PoolClient::connect(hasty).value();
  const TensorDesc desc = square(DType::kF64, 360);
  const Array a = filled(*client, PoolUse::kInput, desc, 1);
  const Array result = alloc(*client, PoolUse::kOutput, desc);
  std::vector<std::unique_ptr<PoolJob>> jobs;
  StatusCode late = StatusCode::kOk;
  for (int i = 0; i < 20 && late == StatusCode::kOk; ++i) {
    auto job = client->start_matmul(*a, *a, Transpose::kNone, *result);
    late = job.ok() ? (*job)->wait().code() : job.status().code();
  }
  EXPECT_EQ(late, StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(client->check().ok());
}

TEST(PoolClientWithoutServer, says_that_there_is_none) {
  const TempDir directory;
  PoolClientOptions options;
  options.endpoint = "ipc://" + directory.file("ctl");
  options.timeout = std::chrono::milliseconds(100);
  EXPECT_EQ(PoolClient::connect(options).status().code(), StatusCode::kUnavailable);
}

TEST_F(PoolClientTest, a_runner_is_told_that_there_is_no_model) {
  ConnectOptions runner;
  runner.endpoint = server_.endpoint();
  const auto session = ClientSession::connect(runner);
  EXPECT_EQ(session.status().code(), StatusCode::kMismatch);
  EXPECT_THAT(session.status().message(), HasSubstr("--no-model"));
  runner.needs_model = false;
  const auto without = ClientSession::connect(runner).value();
  std::string config;
  Tensor norms;
  EXPECT_FALSE(
      without->backend().init(10, config, norms, Deadline::after(std::chrono::seconds(9))).ok());
}

}  // namespace
}  // namespace airlock::testing
