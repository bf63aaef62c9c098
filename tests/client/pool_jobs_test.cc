// Products under way: their order, what became of those that nobody waited for, and who has memory
// meanwhile.

#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "tests/client/pool_client_rig.h"

namespace airlock::testing {
namespace {

using ::testing::HasSubstr;

/// Of products.
class PoolJobs : public PoolClientTest {};

TEST_F(PoolJobs, a_result_that_stays_is_the_next_operand_without_a_trip) {
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

TEST_F(PoolJobs, what_is_freed_too_early_stays_until_the_server_is_through) {
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

TEST_F(PoolJobs, what_dropped_jobs_held_is_found_when_it_is_needed) {
  const auto client = connect();
  const TensorDesc desc = square(DType::kF64, 350);  // two of them fill a lease
  const Array a = filled(*client, PoolUse::kInput, desc, 1);
  for (int i = 0; i < 10; ++i) {
    const Array result = alloc_soon(*client, PoolUse::kOutput, desc);
    // Nobody waits for it.
    ASSERT_TRUE(client->start_matmul(*a, *a, Transpose::kNone, *result).ok());
  }
}

TEST_F(PoolJobs, the_end_of_a_chain_tells_of_a_failure_within) {
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

TEST_F(PoolJobs, a_chain_without_waits_may_be_long) {
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

TEST_F(PoolJobs, a_failure_that_nobody_waited_for_is_told_in_the_end) {
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

TEST_F(PoolJobs, results_of_dropped_jobs_arrive) {
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

TEST_F(PoolJobs, what_is_copied_in_is_not_overwritten_by_an_earlier_product) {
  const auto client = connect();
  for (const std::int64_t n : {20, 300}) {
    const Array a = filled(*client, PoolUse::kInput, square(DType::kF64, n), 1);
    const Array target = alloc(*client, PoolUse::kOutput, a->desc());
    const Array result = alloc(*client, PoolUse::kScratch, a->desc());
    ASSERT_TRUE(client->start_matmul(*a, *a, Transpose::kNone, *target).ok());
    ASSERT_TRUE(client->copy_in(*target, 0, a->bytes()).ok());
    multiply(*client, *a, *target, *result);
    expect_product(*a, *a, *result);
  }
}

TEST_F(PoolJobs, operands_are_free_once_their_product_is_there) {
  const auto client = connect();
  const TensorDesc desc = square(DType::kF64, 500);  // one fills a lease
  const Array stays = alloc(*client, PoolUse::kScratch, desc);
  for (int i = 0; i < 5; ++i) {
    const Array a = alloc_soon(*client, PoolUse::kInput, desc);
    // Both are dropped, and the result lives.
    ASSERT_TRUE(client->start_matmul(*a, *a, Transpose::kNone, *stays).ok());
  }
}

TEST_F(PoolJobs, close_ends_a_wait) {
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

TEST_F(PoolJobs, many_products_may_be_under_way) {
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

TEST_F(PoolJobs, calls_of_many_threads_take_turns) {
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

TEST_F(PoolJobs, a_product_that_takes_too_long_leaves_the_session) {
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

}  // namespace
}  // namespace airlock::testing
