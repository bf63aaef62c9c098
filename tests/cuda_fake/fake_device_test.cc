#include "tests/cuda_fake/fake_device.h"

#include <array>
#include <cstdlib>

#include "gpu_server/cuda/kernels.h"
#include "tests/cuda_fake/fake_test.h"

namespace airlock::cuda_fake {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using FakeDeviceTest = FakeDevice;

constexpr std::size_t kBytes = 1024;

TEST_F(FakeDeviceTest, says_what_it_is) {
  options_.devices = 2;
  options_.memory_bytes = 1 << 20;
  reset(options_);
  int count = 0;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  EXPECT_EQ(count, 2);
  cudaDeviceProp about;
  ASSERT_EQ(cudaGetDeviceProperties(&about, 1), cudaSuccess);
  EXPECT_STREQ(about.name, "Airlock fake GPU");
  EXPECT_EQ(about.major, 8);
  EXPECT_EQ(about.totalGlobalMem, std::size_t{1} << 20);
  EXPECT_EQ(cudaGetDeviceProperties(&about, 2), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
  int version = 0;
  EXPECT_EQ(cudaDriverGetVersion(&version), cudaSuccess);
  EXPECT_EQ(version, CUDART_VERSION);
}

TEST_F(FakeDeviceTest, has_no_device_or_a_driver_too_old_where_asked_to) {
  options_.devices = 0;
  reset(options_);
  int count = 7;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
  options_.devices = 1;
  options_.driver_version = 12040;
  reset(options_);
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
  EXPECT_EQ(count, 7);
  int version = 0;
  EXPECT_EQ(cudaDriverGetVersion(&version), cudaSuccess);
  EXPECT_EQ(version, 12040);
}

TEST_F(FakeDeviceTest, runs_out_of_memory_at_its_limit) {
  options_.memory_bytes = 4096;
  reset(options_);
  auto* first = device(3000);
  void* second = nullptr;
  EXPECT_EQ(cudaMalloc(&second, 1097), cudaErrorMemoryAllocation);
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
  EXPECT_EQ(free_bytes, 1096U);
  EXPECT_EQ(total_bytes, 4096U);
  EXPECT_EQ(cudaMalloc(&second, SIZE_MAX), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&second, 1096), cudaSuccess);
  EXPECT_EQ(device_memory_in_use(), 4096U);
  release(first);
  release(second);
}

TEST_F(FakeDeviceTest, reports_frees_of_what_is_not_there) {
  auto* memory = device(kBytes);
  EXPECT_EQ(cudaFree(memory + 512), cudaErrorInvalidValue);
  expect_misuse("not where an allocation begins");
  release(memory);
  EXPECT_EQ(cudaFree(memory), cudaErrorInvalidValue);
  expect_misuse("device memory that was freed");
  std::array<std::byte, 8> host{};
  EXPECT_EQ(cudaFree(host.data()), cudaErrorInvalidValue);
  expect_misuse("host memory");
}

TEST_F(FakeDeviceTest, never_gives_an_address_out_twice) {
  auto* first = device(kBytes);
  release(first);
  auto* second = device(kBytes);
  EXPECT_NE(first, second);
  EXPECT_EQ(host_view(first), nullptr);
  EXPECT_NE(host_view(second), nullptr);
  release(second);
}

TEST_F(FakeDeviceTest, is_not_to_be_touched_by_the_host) {
  auto* memory = device(kBytes);
  EXPECT_DEATH(*const_cast<volatile std::byte*>(memory) = std::byte{1}, "");
  release(memory);
}

TEST_F(FakeDeviceTest, pool_memory_lives_in_stream_order) {
  options_.memory_bytes = kBytes;
  reset(options_);
  auto s = stream();
  auto other = stream();
  void* first = nullptr;
  void* second = nullptr;
  ASSERT_EQ(cudaMallocAsync(&first, kBytes, s), cudaSuccess);
  ASSERT_EQ(cudaFreeAsync(first, s), cudaSuccess);
  EXPECT_EQ(cudaMallocAsync(&second, kBytes, other), cudaErrorMemoryAllocation)
      << "another stream has it when the free has run";
  ASSERT_EQ(cudaMallocAsync(&second, kBytes, s), cudaSuccess) << "the same stream at once";
  EXPECT_EQ(cudaFreeAsync(first, s), cudaErrorInvalidValue);
  expect_misuse("its free is already queued");
  ASSERT_EQ(cudaFreeAsync(second, s), cudaSuccess);
  finish(s);
  EXPECT_EQ(device_memory_in_use(), 0U);
  EXPECT_EQ(cudaMallocAsync(&second, kBytes, other), cudaSuccess);
  EXPECT_EQ(cudaFreeAsync(second, other), cudaSuccess);
  finish(other);
  destroy(s);
  destroy(other);
}

TEST_F(FakeDeviceTest, pool_memory_of_another_stream_needs_order) {
  auto s = stream();
  auto other = stream();
  Pinned host(kBytes);
  void* memory = nullptr;
  ASSERT_EQ(cudaMallocAsync(&memory, kBytes, s), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(memory, host.data(), kBytes, cudaMemcpyHostToDevice, other),
            cudaSuccess);
  expect_misuse("cudaMallocAsync of another stream also uses: nothing orders them");
  finish(other);
  expect_misuse("before its cudaMallocAsync ran");
  EXPECT_EQ(cudaFreeAsync(memory, s), cudaSuccess);
  finish(s);
  destroy(s);
  destroy(other);
}

TEST_F(FakeDeviceTest, pool_functions_check_their_arguments) {
  cudaMemPool_t pool = nullptr;
  ASSERT_EQ(cudaDeviceGetDefaultMemPool(&pool, 0), cudaSuccess);
  EXPECT_EQ(cudaDeviceGetDefaultMemPool(&pool, 1), cudaErrorInvalidDevice);
  std::uint64_t threshold = UINT64_MAX;
  EXPECT_EQ(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold),
            cudaSuccess);
  EXPECT_EQ(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &threshold),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemPoolSetAttribute(nullptr, cudaMemPoolAttrReleaseThreshold, &threshold),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemPoolTrimTo(pool, 0), cudaSuccess);
  EXPECT_EQ(cudaMemPoolTrimTo(nullptr, 0), cudaErrorInvalidValue);
  auto* plain = device(kBytes);
  auto s = stream();
  EXPECT_EQ(cudaFreeAsync(plain, s), cudaErrorInvalidValue);
  expect_misuse("that cudaMalloc gave");
  release(plain);
  destroy(s);
}

TEST_F(FakeDeviceTest, registration_is_by_range) {
  Pinned host(4096);
  EXPECT_EQ(cudaHostRegister(host.data() + 100, 10, 0), cudaErrorHostMemoryAlreadyRegistered);
  expect_misuse("already registered");
  EXPECT_EQ(cudaHostUnregister(host.data() + 100), cudaErrorHostMemoryNotRegistered);
  expect_misuse("not from its start");
  auto* memory = device(kBytes);
  EXPECT_EQ(cudaHostRegister(memory, kBytes, 0), cudaErrorInvalidValue);
  expect_misuse("of a device address");
  EXPECT_EQ(cudaHostRegister(reinterpret_cast<void*>(0x1000), kBytes, 0), cudaErrorInvalidValue);
  expect_misuse("that the process does not have");
  set_register_fails(true);
  std::array<std::byte, 64> more{};
  EXPECT_EQ(cudaHostRegister(more.data(), more.size(), 0), cudaErrorMemoryAllocation);
  release(memory);
}

TEST_F(FakeDeviceTest, lists_what_was_left) {
  auto* memory = device(kBytes);
  auto s = stream();
  auto e = event();
  std::array<std::byte, 64> host{};
  ASSERT_EQ(cudaHostRegister(host.data(), host.size(), 0), cudaSuccess);
  EXPECT_THAT(leaks(), ElementsAre(HasSubstr("1024 bytes of device memory"),
                                   HasSubstr("64 bytes of host memory"), HasSubstr("a stream"),
                                   HasSubstr("an event")));
  EXPECT_EQ(reset().size(), 4U) << "and reset() hands them out";
  EXPECT_EQ(cudaStreamDestroy(s), cudaErrorInvalidResourceHandle);
  expect_misuse("on a stream that was destroyed or never was");
  EXPECT_EQ(cudaEventDestroy(e), cudaErrorInvalidResourceHandle);
  expect_misuse("of an event that was destroyed or never was");
  EXPECT_EQ(cudaFree(memory), cudaErrorInvalidValue);
  expect_misuse("no device memory");
}

TEST_F(FakeDeviceTest, fails_the_nth_call_and_only_that) {
  fail_call(2, cudaErrorMemoryAllocation);
  void* first = nullptr;
  void* second = nullptr;
  EXPECT_EQ(cudaMalloc(&first, 8), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&second, 8), cudaErrorMemoryAllocation);
  EXPECT_EQ(counters().injected_failures, 1U);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(call_count(), 4U);
  EXPECT_EQ(call_count("cudaMalloc"), 2U);
  EXPECT_THAT(calls(),
              ElementsAre("cudaMalloc", "cudaMalloc", "cudaGetLastError", "cudaGetLastError"));
  release(first);
}

TEST_F(FakeDeviceTest, fails_the_nth_call_of_a_function) {
  fail_function("cudaEventCreateWithFlags", 2, cudaErrorUnknown);
  auto s = stream();
  auto e = event();
  cudaEvent_t second = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&second, 0), cudaErrorUnknown);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorUnknown);
  destroy(e);
  destroy(s);
}

TEST_F(FakeDeviceTest, a_release_that_fails_has_released) {
  auto* memory = device(kBytes);
  auto s = stream();
  fail_function("cudaFree", 1, cudaErrorUnknown);
  fail_function("cudaStreamDestroy", 1, cudaErrorUnknown);
  EXPECT_EQ(cudaFree(memory), cudaErrorUnknown);
  EXPECT_EQ(cudaStreamDestroy(s), cudaErrorUnknown);
  EXPECT_THAT(leaks(), IsEmpty());
}

TEST_F(FakeDeviceTest, does_not_come_back_from_an_error_that_loses_it) {
  auto* memory = device(kBytes);
  fail_function("cudaMemGetInfo", 1, cudaErrorIllegalAddress);
  std::size_t free_bytes = 0;
  EXPECT_EQ(cudaMemGetInfo(&free_bytes, &free_bytes), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
  EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress) << "not cleared";
  EXPECT_THAT(take_misuses(), IsEmpty()) << "asking for the error is fine";
  EXPECT_EQ(cudaFree(memory), cudaErrorIllegalAddress);
  expect_misuse("cudaFree after this thread was told that the device is lost");
  std::thread([] {
    int count = 0;
    EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorIllegalAddress);
    EXPECT_THAT(take_misuses(), IsEmpty()) << "this thread had not been told";
  }).join();
}

TEST_F(FakeDeviceTest, loses_the_device_at_the_nth_work) {
  for (const Mode mode : {Mode::kLazy, Mode::kEager, Mode::kThreads}) {
    start(mode);
    {
      Pinned host(kBytes, 3);
      auto* memory = device(kBytes);
      auto s = stream();
      lose_device_at_work(2, cudaErrorLaunchFailure);
      EXPECT_EQ(cudaMemcpyAsync(memory, host.data(), kBytes, cudaMemcpyHostToDevice, s),
                cudaSuccess);
      finish(s);
      cudaError_t last = cudaMemcpyAsync(memory, host.data(), kBytes, cudaMemcpyHostToDevice, s);
      while (last == cudaSuccess || last == cudaErrorNotReady) last = cudaStreamQuery(s);
      EXPECT_EQ(last, cudaErrorLaunchFailure);
      EXPECT_EQ(cudaPeekAtLastError(), cudaErrorLaunchFailure);
      EXPECT_THAT(take_misuses(), IsEmpty());
      EXPECT_THAT(reset(), IsEmpty()) << "nothing is a leak of a lost device";
      ASSERT_EQ(cudaHostRegister(host.data(), kBytes, 0), cudaSuccess);  // for ~Pinned
    }
  }
}

TEST_F(FakeDeviceTest, names_errors) {
  EXPECT_STREQ(cudaGetErrorName(cudaErrorMemoryAllocation), "cudaErrorMemoryAllocation");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory");
  EXPECT_STREQ(cudaGetErrorName(static_cast<cudaError_t>(12345)), "unrecognized error code");
  EXPECT_EQ(call_count(), 0U) << "they cannot fail";
}

TEST_F(FakeDeviceTest, a_kernel_launch_returns_its_own_error_and_gathers) {
  auto s = stream();
  auto* ids = device<std::int32_t>(2);
  auto* table = device<float>(6);
  auto* out = device<float>(4);
  const cuda::Gather job{table, DType::kF32, ids, out, DType::kF32, 2, 2};
  const std::array<std::int32_t, 2> rows{2, 0};
  const std::array<float, 6> values{0, 1, 2, 3, 4, 5};
  ASSERT_EQ(cudaMemcpyAsync(ids, rows.data(), sizeof rows, cudaMemcpyHostToDevice, s), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(table, values.data(), sizeof values, cudaMemcpyHostToDevice, s),
            cudaSuccess);
  fail_function("launch_gather", 1, cudaErrorLaunchOutOfResources);
  EXPECT_EQ(launch_gather(job, s), cudaErrorLaunchOutOfResources);
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchOutOfResources);
  EXPECT_EQ(cudaSetDevice(9), cudaErrorInvalidDevice);
  EXPECT_EQ(launch_gather(job, s), cudaSuccess);
  std::array<float, 4> got{};
  ASSERT_EQ(cudaMemcpyAsync(got.data(), out, sizeof got, cudaMemcpyDeviceToHost, s), cudaSuccess);
  EXPECT_THAT(got, ElementsAre(4, 5, 0, 1));
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidDevice) << "of before the launches";
  finish(s);
  destroy(s);
  release(ids);
  release(table);
  release(out);
}

TEST_F(FakeDeviceTest, kernels_check_what_they_touch) {
  auto s = stream();
  auto* ids = device<std::int32_t>(1);
  auto* table = device<float>(6);
  auto* out = device<std::uint16_t>(6);
  cuda::Gather gather{table, DType::kF32, ids, out, DType::kBF16, 1, 2};
  EXPECT_EQ(launch_gather(gather, s), cudaSuccess);
  finish(s);
  expect_misuse("row -1 of a table that has room for 3");
  std::memset(host_view(ids), 0, sizeof *ids);
  host_view(ids)[0] = std::byte{3};
  EXPECT_EQ(launch_gather(gather, s), cudaSuccess);
  finish(s);
  expect_misuse("row 3 of a table that has room for 3");
  gather.tokens = 0;
  EXPECT_EQ(launch_gather(gather, s), cudaErrorInvalidConfiguration);
  expect_misuse("launch_gather of 0 elements");
  cuda::Conversion conversion{table, DType::kF32, 2, out, DType::kBF16, 4, 2};
  EXPECT_EQ(launch_convert(conversion, s), cudaSuccess);
  finish(s);
  expect_misuse("device memory that ends before (24 of 24 bytes are left there)");
  std::array<float, 6> host{};
  conversion = {host.data(), DType::kF32, 2, out, DType::kBF16, 3, 2};
  EXPECT_EQ(launch_convert(conversion, s), cudaSuccess);
  finish(s);
  expect_misuse("launch_convert reads 24 bytes");
  conversion.in = table;
  EXPECT_EQ(launch_convert(conversion, s), cudaSuccess);
  finish(s);
  EXPECT_EQ(counters().kernels, 5U);
  destroy(s);
  release(ids);
  release(table);
  release(out);
}

TEST_F(FakeDeviceTest, keeps_devices_apart) {
  options_.devices = 2;
  reset(options_);
  auto* memory = device(kBytes);
  Pinned host(kBytes);
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  auto s = stream();
  ASSERT_EQ(cudaMemcpyAsync(memory, host.data(), kBytes, cudaMemcpyHostToDevice, s), cudaSuccess);
  finish(s);
  expect_misuse("memory of device 0");
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  auto e = event();
  EXPECT_EQ(cudaEventRecord(e, s), cudaErrorInvalidResourceHandle);
  expect_misuse("of another device");
  auto* floats = device<float>(8);
  EXPECT_EQ(cuda::launch_convert({floats, DType::kF32, 4, floats + 4, DType::kF32, 1, 4}, s),
            cudaErrorInvalidResourceHandle);
  expect_misuse("on a stream of another device");
  destroy(e);
  destroy(s);
  release(memory);
  release(floats);
}

TEST_F(FakeDeviceTest, loses_one_device_and_not_the_others) {
  options_.devices = 2;
  reset(options_);
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  auto lost_stream = stream();
  auto* lost_memory = device(kBytes);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  auto s = stream();
  auto* memory = device(kBytes);
  Pinned host(kBytes, 3);
  lose_device_at_work(1, cudaErrorECCUncorrectable);
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(lost_memory, host.data(), kBytes, cudaMemcpyDefault, lost_stream),
            cudaSuccess);
  cudaError_t last = cudaErrorNotReady;
  while (last == cudaErrorNotReady) last = cudaStreamQuery(lost_stream);
  EXPECT_EQ(last, cudaErrorECCUncorrectable);
  EXPECT_EQ(cudaSetDevice(0), cudaSuccess) << "from a device that is lost to another";
  EXPECT_EQ(cudaMemcpyAsync(memory, host.data(), kBytes, cudaMemcpyDefault, s), cudaSuccess);
  finish(s);
  EXPECT_THAT(take_misuses(), IsEmpty());
  EXPECT_EQ(cudaSetDevice(1), cudaErrorECCUncorrectable);
  expect_misuse("cudaSetDevice after this thread was told that the device is lost");
}

TEST_F(FakeDeviceTest, pins_for_the_device_that_asked_or_for_all) {
  options_.devices = 2;
  reset(options_);
  std::vector<std::byte> host(kBytes);
  for (const auto& [flags, pinned] :
       {std::pair(cudaHostRegisterDefault, 0U), std::pair(cudaHostRegisterPortable, 1U)}) {
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
    ASSERT_EQ(cudaHostRegister(host.data(), kBytes, static_cast<unsigned>(flags)), cudaSuccess);
    ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
    auto s = stream();
    auto* memory = device(kBytes);
    const Counters before = counters();
    ASSERT_EQ(cudaMemcpyAsync(memory, host.data(), kBytes, cudaMemcpyDefault, s), cudaSuccess);
    EXPECT_EQ(counters().pinned_copies - before.pinned_copies, pinned);
    finish(s);
    destroy(s);
    release(memory);
    EXPECT_EQ(cudaHostUnregister(host.data()), cudaSuccess);
  }
}

TEST_F(FakeDeviceTest, knows_columns_that_lie_side_by_side_from_columns_that_meet) {
  constexpr std::size_t kRows = 4;
  constexpr std::size_t kPitch = kBytes / kRows;
  for (const std::size_t first : {kPitch / 2, kPitch / 2 - 1}) {
    Pinned host(kBytes);
    auto* memory = device(kBytes);
    auto left = stream();
    auto right = stream();
    for (const auto& [column, s] : {std::pair(std::size_t{0}, left), std::pair(first, right)}) {
      ASSERT_EQ(cudaMemcpy2DAsync(host.data() + column, kPitch, memory, kPitch, kPitch / 2, kRows,
                                  cudaMemcpyDeviceToHost, s),
                cudaSuccess);
    }
    if (first == kPitch / 2) {
      EXPECT_THAT(take_misuses(), IsEmpty());
    } else {
      expect_misuse("nothing orders them");
    }
    finish(left);
    finish(right);
    destroy(left);
    destroy(right);
    release(memory);
  }
}

/// In a process of its own, steered by the environment.
TEST(FakeDeviceProcess, takes_its_options_from_the_environment_and_reports_at_exit) {
  const auto run = [](const char* fail, const char* abort_at_misuse) {
    setenv("AIRLOCK_CUDA_FAKE_MEMORY_BYTES", "1000", 1);
    setenv("AIRLOCK_CUDA_FAKE_MODE", "eager", 1);
    setenv("AIRLOCK_CUDA_FAKE_FAIL", fail, 1);
    setenv("AIRLOCK_CUDA_FAKE_ABORT", abort_at_misuse, 1);
    restart_from_environment();
    void* memory = nullptr;
    if (cudaMalloc(&memory, 1001) != cudaErrorMemoryAllocation) std::exit(1);
    if (cudaMalloc(&memory, 1) != cudaSuccess) std::exit(2);
    if (cudaMalloc(&memory, 1) != cudaErrorUnknown) std::exit(3);
    std::exit(0);
  };
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(run("cudaMalloc:3:999", "0"), testing::ExitedWithCode(0),
              "misuse: 1 bytes of device memory.*\ncuda_fake: 1 misuses");
  EXPECT_EXIT(run("*:3:999", "0"), testing::ExitedWithCode(0), "cuda_fake: 1 misuses");
  EXPECT_EXIT(run("*:3:999", "1"), testing::KilledBySignal(SIGABRT), "misuse: 1 bytes");
}

}  // namespace
}  // namespace airlock::cuda_fake
