// Arrays of one's own, against a whole server in this process.

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/client/pool_client_rig.h"

namespace airlock::testing {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kLease = 2 * PoolServer::kSlot;

TEST_F(PoolClientTest, multiplies_arrays_wherever_they_live) {
  const auto client = connect();
  EXPECT_THAT(client->device(), HasSubstr("cpu, BLIS"));
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

// What is too large for the server's rings is not sent behind a header.
TEST_F(PoolClientTest, multiplies_arrays_that_a_small_ring_does_not_take) {
  for (const auto& [path_limit, slot] :
       {std::pair<std::optional<std::uint32_t>, std::uint32_t>{4096, 65536},
        {1, 65536},
        {std::nullopt, 4096}}) {
    const PoolServer server({}, path_limit, slot);
    PoolClientOptions asked = options();
    asked.endpoint = server.endpoint();
    const auto client = PoolClient::connect(asked).value();
    for (const std::int64_t n : {3, 31, 32, 34, 48, 51}) {
      SCOPED_TRACE(n);
      const Array a = filled(*client, PoolUse::kInput, square(DType::kF32, n), 1);
      const Array b = filled(*client, PoolUse::kInput, square(DType::kF32, n), 2);
      const Array result = alloc(*client, PoolUse::kOutput, square(DType::kF32, n));
      multiply(*client, *a, *b, *result);
      expect_product(*a, *b, *result);
    }
  }
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

TEST_F(PoolClientTest, a_lease_whose_memory_went_is_told) {
  const auto client = connect();
  const Array a = filled(*client, PoolUse::kInput, square(DType::kF64, 200), 1);
  // As where the system has no page left.
  const UniqueFd nothing(::memfd_create("nothing", MFD_CLOEXEC));
  ASSERT_NE(::mmap(a->bytes().data(), 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                   nothing.get(), 0),
            MAP_FAILED);
  std::vector<std::byte> copy(a->bytes().size());
  const Status status = client->copy_out(*a, 0, copy);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("taken away"));
  EXPECT_FALSE(client->check().ok());
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
