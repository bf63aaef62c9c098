// Every CUDA call that an op makes fails once: the op says so, what was queued ends before the
// memory goes, nothing leaks, and the session goes on wherever the device does.
#include <cuda_runtime_api.h>

#include "tests/cuda/fake_rig.h"
#include "tests/support/sanitizer.h"

namespace airlock::testing {
namespace {

using cuda_fake::Mode;

#if AIRLOCK_TSAN
constexpr std::uint64_t kStep = 7;  // a sample
#elif AIRLOCK_ASAN
constexpr std::uint64_t kStep = 3;
#else
constexpr std::uint64_t kStep = 1;
#endif

/// Each op kind on both paths: in registered memory, and in memory that goes through pieces.
class CudaFailureTest : public FakeCudaTest {
 protected:
  struct Walk {
    OpSpec spec;
    bool in_ring = false;
    int error = cudaErrorMemoryAllocation;
  };

  Status run(Compute& compute, const Walk& walk, Segment& ring) {
    std::vector<Tensor> inputs = inputs_of(walk.spec);
    if (!walk.in_ring) {
      std::vector<Tensor> results = results_of(walk.spec);
      return run_op(compute, walk.spec, inputs, views_of(results));
    }
    std::size_t offset = 0;
    const auto place = [&](const TensorDesc& desc, const Tensor* from) {
      const MutableTensorView view = ring.place(offset, desc, from);
      offset += (desc.bytes() + 4095) / 4096 * 4096;
      return view;
    };
    std::vector<TensorView> in;
    std::vector<MutableTensorView> out;
    for (const Tensor& input : inputs) in.push_back(place(input.desc(), &input));
    const auto descs = op_results(walk.spec, dims());
    for (const TensorDesc& desc : *descs) out.push_back(place(desc, nullptr));
    return run_op(compute, walk.spec, in, out);
  }

  /// One session with one op whose `nth` call fails, from make_compute() to its end. Returns
  /// whether there was an nth call.
  bool fail_at(std::uint64_t nth, const Walk& walk) {
    Segment ring(1 << 20);
    const std::uint64_t before = cuda_fake::call_count();
    const std::uint64_t injected = cuda_fake::counters().injected_failures;
    const std::size_t in_use = cuda_fake::device_memory_in_use();
    cuda_fake::fail_call(before + nth, walk.error);
    {
      auto compute = model_on_device_->make_compute(std::vector{ring.bytes()});
      Status status = compute.status();
      if (compute.ok()) {
        status = run(**compute, walk, ring);
        if (!status.ok() && model_on_device_->health().ok()) {
          const Status again = run(**compute, walk, ring);
          EXPECT_TRUE(again.ok()) << "after call " << nth << " (" << status.to_string()
                                  << "): " << again.to_string();
        }
      }
      if (!status.ok()) {
        EXPECT_TRUE(status.code() == StatusCode::kResourceExhausted ||
                    status.code() == StatusCode::kDevice)
            << status.to_string();
        EXPECT_FALSE(status.message().empty());
      }
    }
    if (model_on_device_->health().ok()) {
      EXPECT_EQ(cuda_fake::device_memory_in_use(), in_use) << "call " << nth;
    }
    const std::vector<std::string> calls = cuda_fake::calls();
    const std::string name = before + nth <= calls.size() ? calls[before + nth - 1] : "none";
    for (const std::string& misuse : cuda_fake::take_misuses())
      ADD_FAILURE() << "call " << nth << ", " << name << ": " << misuse;
    return cuda_fake::counters().injected_failures > injected;
  }

  void walk_all(const Walk& walk) {
    SCOPED_TRACE(std::string(name_of(walk.spec.op)) + (walk.in_ring ? ", ring" : ", pieces"));
    std::uint64_t failures = 0;
    for (std::uint64_t nth = 1;; nth += kStep) {
      if (!model_on_device_ ||
          !model_on_device_->health().ok()) {  // the one before lost the device
        restart(options_);
        load(DType::kBF16);
      }
      if (!fail_at(nth, walk)) break;
      ++failures;
      ASSERT_LT(nth, 1000U);
    }
    EXPECT_GT(failures, 20U / kStep);  // a session alone makes more calls
    restart(options_);
  }

  void fail_each_call_of_loading(const ModelSource* model, int error) {
    for (std::uint64_t nth = 1;; nth += kStep) {
      cuda_fake::reset({.mode = Mode::kEager});  // whatever the failed one before has left
      cuda_fake::fail_call(nth, error);
      {
        const auto made = create(model, DType::kBF16);
        if (!made.ok()) {
          EXPECT_TRUE(made.status().code() == StatusCode::kResourceExhausted ||
                      made.status().code() == StatusCode::kDevice)
              << made.status().to_string();
        }
      }
      const std::vector<std::string> calls = cuda_fake::calls();
      const std::string name = nth <= calls.size() ? calls[nth - 1] : "none";
      for (const std::string& misuse : cuda_fake::take_misuses())
        ADD_FAILURE() << "call " << nth << ", " << name << ": " << misuse;
      if (cuda_fake::counters().injected_failures == 0) break;
      ASSERT_LT(nth, 10000U);
    }
  }

  cuda_fake::Options options_{.mode = Mode::kLazy};
};

TEST_F(CudaFailureTest, every_call_runs_out_of_memory_once) {
  const std::vector<OpSpec> specs = one_of_each(DType::kF16);
  for (const OpSpec& spec : specs) walk_all({spec, true, cudaErrorMemoryAllocation});
  for (const OpSpec& spec : {specs[0], specs[1]})  // through pieces: ids, and rows of a group
    walk_all({spec, false, cudaErrorMemoryAllocation});
}

TEST_F(CudaFailureTest, every_call_is_refused_once) {
  for (const OpSpec& spec : one_of_each(DType::kBF16))
    walk_all({spec, true, cudaErrorNotSupported});
}

TEST_F(CudaFailureTest, every_call_finds_the_device_lost_once) {
  for (const OpSpec& spec : one_of_each(DType::kF32))
    walk_all({spec, true, cudaErrorIllegalAddress});
}

TEST_F(CudaFailureTest, every_piece_of_queued_work_loses_the_device_once) {
  for (const OpSpec& spec : one_of_each(DType::kF16)) {
    for (std::uint64_t nth = 1;; ++nth) {
      restart(options_);
      load(DType::kBF16);
      open();
      cuda_fake::lose_device_at_work(cuda_fake::counters().work_run + nth, cudaErrorIllegalAddress);
      const Status status = run_op(*compute_, spec);
      if (status.ok()) break;
      EXPECT_EQ(status.code(), StatusCode::kDevice) << status.to_string();
      EXPECT_EQ(model_on_device_->health().code(), StatusCode::kDevice);
      for (const std::string& misuse : cuda_fake::take_misuses()) ADD_FAILURE() << misuse;
      ASSERT_LT(nth, 100U);
    }
  }
}

TEST_F(CudaFailureTest, every_call_of_loading_fails_once) {
  for (const int error : {int{cudaErrorMemoryAllocation}, int{cudaErrorIllegalAddress}})
    fail_each_call_of_loading(&model_, error);
}

TEST_F(CudaFailureTest, every_call_of_starting_without_a_model_fails_once) {
  for (const int error : {int{cudaErrorMemoryAllocation}, int{cudaErrorIllegalAddress}})
    fail_each_call_of_loading(kNoModel, error);
}

}  // namespace
}  // namespace airlock::testing
