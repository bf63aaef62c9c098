// As cuda_failure_test, for the making of int8 weights and the ops that need them.
#include <cuda_runtime_api.h>

#include "gpu_server/cuda/memory.h"
#include "tests/cuda/cuda_words_rig.h"
#include "tests/support/sanitizer.h"

namespace airlock::testing {
namespace {

using cuda_fake::Mode;
using enum WeightKind;

#if AIRLOCK_TSAN
constexpr std::uint64_t kStep = 7;  // a sample
#elif AIRLOCK_ASAN
constexpr std::uint64_t kStep = 3;
#else
constexpr std::uint64_t kStep = 1;
#endif

class CudaWordsFailureTest : public CudaWordsTest {
 protected:
  static void expect_typed(const Status& status, std::uint64_t nth) {
    EXPECT_TRUE(status.code() == StatusCode::kResourceExhausted ||
                status.code() == StatusCode::kDevice)
        << "call " << nth << ": " << status.to_string();
  }
  static void expect_no_misuse(std::uint64_t nth) {
    for (const std::string& misuse : cuda_fake::take_misuses())
      ADD_FAILURE() << "call " << nth << ": " << misuse;
  }

  /// Whether there was an nth call of making them; if the device lives, the next try succeeds.
  bool fail_making_at(const ModelSource& source, Int8Weights choice, std::uint64_t nth, int error) {
    load_for(source, {.mode = Mode::kEager});
    const std::size_t in_use = cuda_fake::device_memory_in_use();
    const std::uint64_t injected = cuda_fake::counters().injected_failures;
    cuda_fake::fail_call(cuda_fake::call_count() + nth, error);
    const Status status = make_int8(choice).status();
    const bool failed = cuda_fake::counters().injected_failures > injected;
    const bool lives = model_on_device_->health().ok();
    if (!status.ok()) {
      expect_typed(status, nth);
      if (lives) {
        EXPECT_LE(cuda_fake::device_memory_in_use(), in_use) << nth;
        EXPECT_TRUE(make_int8(choice).ok()) << "after call " << nth;
      }
    }
    expect_no_misuse(nth);
    return failed;
  }

  Outcome run_spec(Compute& compute, const OpSpec& spec) {
    if (spec.op == Op::kIntLinear)
      return run_int(compute, spec, words(spec.inputs[0].shape[0], spec.inputs[0].shape[1]));
    const std::vector<std::byte> key(kPadKeyBytes, std::byte{7});
    const Words places(spec.inputs[1].elements(), 5);
    return run_words(compute, spec,
                     {{key.data(), spec.inputs[0]}, view_of(places, spec.inputs[1].shape)});
  }

  /// One session with one op whose `nth` call fails. Whether there was one.
  bool fail_op_at(const OpSpec& spec, std::uint64_t nth, int error,
                  const std::vector<Words>& want) {
    const std::size_t in_use = cuda_fake::device_memory_in_use();
    const std::uint64_t injected = cuda_fake::counters().injected_failures;
    cuda_fake::fail_call(cuda_fake::call_count() + nth, error);
    {
      auto compute = model_on_device_->make_compute({});
      Status status = compute.status();
      if (compute.ok()) {
        const Outcome first = run_spec(**compute, spec);
        status = first.status;
        if (status.ok()) {
          EXPECT_TRUE(first.results == want);
        } else if (model_on_device_->health().ok()) {
          const Outcome again = run_spec(**compute, spec);
          EXPECT_TRUE(again.status.ok()) << "after call " << nth << " (" << status.to_string()
                                         << "): " << again.status.to_string();
          EXPECT_TRUE(again.results == want) << "after call " << nth;
        }
      }
      if (!status.ok()) expect_typed(status, nth);
    }
    if (model_on_device_->health().ok()) {
      EXPECT_EQ(cuda_fake::device_memory_in_use(), in_use) << nth;
    }
    expect_no_misuse(nth);
    return cuda_fake::counters().injected_failures > injected;
  }

  const MemoryModel odd_{odd_options()};
};

TEST_F(CudaWordsFailureTest, every_call_of_making_int8_weights_fails_once) {
  for (const int error : {int{cudaErrorMemoryAllocation}, int{cudaErrorIllegalAddress}}) {
    std::uint64_t failures = 0;
    for (std::uint64_t nth = 1; fail_making_at(odd_, Int8Weights::kW16, nth, error); nth += kStep) {
      ++failures;
      ASSERT_LT(nth, 2000U);
    }
    EXPECT_GT(failures, 20U / kStep);
  }
}

TEST_F(CudaWordsFailureTest, every_call_of_an_op_fails_once) {
  load_for(odd_);
  const std::vector<OpSpec> specs{int_spec({{kQ, 0}, {kK, 0}, {kV, 0}}, 2, 3),
                                  pad_linear_spec({{kDown, 1}}, 1, 3)};
  for (const OpSpec& spec : specs) {
    for (const int error : {int{cudaErrorMemoryAllocation}, int{cudaErrorNotSupported},
                            int{cudaErrorIllegalAddress}}) {
      SCOPED_TRACE(std::string(name_of(spec.op)) + ", error " + std::to_string(error));
      std::vector<Words> want;
      bool failed = true;
      std::uint64_t failures = 0;
      for (std::uint64_t nth = 1; failed; nth += kStep) {
        if (nth == 1 || !model_on_device_->health().ok()) {
          load_for(odd_);
          ASSERT_TRUE(make_int8(Int8Weights::kW16).ok());
          open();
          want = run_spec(*compute_, spec).results;
          compute_.reset();
        }
        failed = fail_op_at(spec, nth, error, want);
        failures += failed ? 1 : 0;
        ASSERT_LT(nth, 1000U);
      }
      EXPECT_GT(failures, 20U / kStep);
    }
  }
}

TEST_F(CudaWordsFailureTest, says_what_int8_weights_need_and_what_is_free_and_goes_on) {
  MemoryModel::Options options = odd_options();
  options.dims.vocab = 100000;  // of lm_head 8 MB a plane
  const MemoryModel large(options);
  load_for(large, {.memory_bytes = std::size_t{512} << 20});
  void* other = nullptr;  // a program that leaves room for one plane
  const std::size_t room = (std::size_t{512} << 20) - cuda_fake::device_memory_in_use();
  ASSERT_EQ(cudaMalloc(&other, room - (std::size_t{12} << 20)), cudaSuccess);
  const std::size_t in_use = cuda_fake::device_memory_in_use();
  const Status status = make_int8(Int8Weights::kW16).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.to_string();
  EXPECT_NE(status.message().find("need"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("free"), std::string::npos) << status.message();
  EXPECT_EQ(cuda_fake::device_memory_in_use(), in_use);
  EXPECT_TRUE(model_on_device_->health().ok());
  open();
  const OpSpec spec = int_spec({{kQ, 0}}, 1, 2);
  EXPECT_EQ(run_spec(*compute_, spec).status.code(), StatusCode::kInvalidInput);
  EXPECT_TRUE(make_int8(Int8Weights::kW8).ok());
  EXPECT_TRUE(run_spec(*compute_, spec).status.ok());
  ASSERT_EQ(cudaFree(other), cudaSuccess);
  EXPECT_TRUE(make_int8(Int8Weights::kW16).ok());
}

TEST_F(CudaWordsFailureTest, gives_the_models_error) {
  MemoryModel::Options options = odd_options();
  const MemoryModel whole(options);
  load_for(whole);
  options.broken_tensor = "model.layers.1.mlp.up_proj.weight";
  const MemoryModel broken(options);
  const std::size_t in_use = cuda_fake::device_memory_in_use();
  const Status status = model_on_device_->prepare_int8(broken, Int8Weights::kW8, {}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput) << status.to_string();
  EXPECT_LE(cuda_fake::device_memory_in_use(), in_use);
  EXPECT_TRUE(make_int8(Int8Weights::kW8).ok());
}

TEST_F(CudaWordsFailureTest, wipes_what_a_pinned_piece_held) {
  auto device = cuda::Device::open(0).value();
  auto* target = static_cast<std::byte*>(nullptr);
  {
    const cuda::DeviceMemory memory = cuda::allocate(*device, 4096, "a test").value();
    target = static_cast<std::byte*>(memory.get());
    const cuda::Stream stream = cuda::make_stream(*device).value();
    cuda::Staging staging(*device, 2, 4096);
    ASSERT_TRUE(staging.prepare().ok());
    const int one = 1;
    const int two = 2;
    const auto send = [&](const int* keeper) {
      cuda::Staging::Piece* piece = staging.next_for_secret(4000, keeper).value();
      std::memset(piece->memory.data(), *keeper, 4000);
      EXPECT_TRUE(staging.send(*piece, target, 4000, stream.get(), "copy").ok());
      return piece;
    };
    const auto holds = [](const cuda::Staging::Piece* piece, int value) {
      return std::all_of(piece->memory.data(), piece->memory.data() + 4000,
                         [&](std::byte each) { return std::to_integer<int>(each) == value; });
    };
    const auto* first = send(&one);
    const auto* second = send(&two);
    ASSERT_TRUE(device->wait_until_over(cudaStreamQuery, stream.get(), "a copy", soon()).ok());
    staging.wipe(&one);
    EXPECT_TRUE(holds(first, 0));
    EXPECT_TRUE(holds(second, 2)) << "another's";
    EXPECT_TRUE(staging.next_free().ok());  // the first
    const auto* reused = staging.next_free().value();
    EXPECT_EQ(reused, second);
    EXPECT_TRUE(holds(reused, 0)) << "nobody gets what another left";
  }
}

}  // namespace
}  // namespace airlock::testing
