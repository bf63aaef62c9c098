// A model over several devices of one process, on the fake device: the bits of one device, its
// columns straight into the caller's memory, and what happens where one of the devices fails.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "tests/conformance/share_conformance.h"
#include "tests/cuda/device_group_rig.h"

namespace airlock::testing {
namespace {

using cuda_fake::Mode;

constexpr int kDevices = 3;
constexpr std::byte kUntouched{0x5a};

class DeviceGroupTest : public FakeCudaTest {
 protected:
  ~DeviceGroupTest() override { forget(); }

  /// Fresh devices, nothing left of the old ones (which a lost device may leave).
  void fresh(Mode mode, bool was_lost = false) {
    forget();
    const std::vector<std::string> misuses = cuda_fake::take_misuses();
    EXPECT_THAT(misuses, ::testing::IsEmpty());
    const auto left = cuda_fake::reset({.mode = mode, .devices = kDevices});
    if (!was_lost) {
      EXPECT_THAT(left, ::testing::IsEmpty());
    }
  }
  void forget() {
    compute_.reset();
    group_.reset();
  }
  void open_group(std::size_t devices, DType dtype = DType::kF32,
                  const ModelShare* share = nullptr) {
    group_ = make_fake_group(source_, dtype, devices, share);
    auto made = group_->make_compute(std::vector{ring_.bytes()});
    ASSERT_TRUE(made.ok()) << made.status().to_string();
    compute_ = std::move(made).value();
  }
  /// A CUDA model on device 0, of all or of a share.
  std::shared_ptr<CudaModel> one_device(DType dtype, const ModelShare* share = nullptr) const {
    CudaOptions options;
    options.dtype = dtype;
    options.share = share;
    return airlock_cuda_module()->create(&source_, options).value();
  }

  /// The op's memory, inputs and results in the ring or elsewhere (`tensors`).
  OpMemory memory_of(const PlacedOp& op, const std::vector<TensorDesc>& descs, bool in_ring,
                     std::vector<Tensor>& tensors) {
    OpMemory memory;
    std::size_t offset = 0;
    const auto place = [&](const TensorDesc& desc, const Tensor* from) {
      if (!in_ring) return tensors.emplace_back(desc).mutable_view();
      const MutableTensorView view = ring_.place(offset, desc, from);
      offset += (desc.bytes() + 4095) / 4096 * 4096;
      return view;
    };
    tensors.reserve(descs.size());
    for (const Tensor& input : op.inputs)
      memory.inputs.push_back(in_ring ? place(input.desc(), &input) : input.view());
    for (const TensorDesc& desc : descs) {
      memory.results.push_back(place(desc, nullptr));
      std::ranges::fill(memory.results.back().bytes(), std::byte{0xff});
    }
    return memory;
  }
  static Status run(Compute& compute, const OpSpec& spec, const OpMemory& memory) {
    ASSIGN_OR_RETURN(auto op, compute.prepare(spec, memory, soon()));
    RETURN_IF_ERROR(op->submit());
    RETURN_IF_ERROR(op->wait());
    EXPECT_TRUE(op->done());
    EXPECT_GT(op->times().device.compute_ns, 0U);
    EXPECT_EQ(op->times().queue_ns + op->times().server_ns, op->times().total_ns);
    return {};
  }
  /// Both ways of memory; the group's results are those of `one` to the bit.
  void expect_same_bits(Compute& one, const PlacedOp& op, const std::vector<TensorDesc>& descs) {
    std::vector<Tensor> want_tensors;
    const OpMemory want = memory_of(op, descs, false, want_tensors);
    ASSERT_TRUE(run(one, op.spec, want).ok());
    for (const bool in_ring : {true, false}) {
      std::vector<Tensor> tensors;
      const OpMemory got = memory_of(op, descs, in_ring, tensors);
      const Status status = run(*compute_, op.spec, got);
      ASSERT_TRUE(status.ok()) << status.to_string();
      for (std::size_t i = 0; i < descs.size(); ++i) {
        EXPECT_TRUE(std::ranges::equal(got.results[i].bytes(), want.results[i].bytes()))
            << name_of(op.spec.op) << ", result " << i << (in_ring ? ", ring" : ", pieces");
      }
    }
  }
  std::vector<PlacedOp> all_float_ops(DType dtype) const {
    std::vector<PlacedOp> ops = float_ops(source_.config().dims, 5, dtype, DType::kF32);
    const TensorDesc a{dtype, Shape{6, 4, 18}};
    const TensorDesc b{dtype, Shape{2, 7, 18}};
    for (int turn = 0; turn < kDevices; ++turn) {
      PlacedOp op = op_on_floats(matmul_spec(a, b, Transpose::kB, dtype), 7);
      op.inputs.push_back(random_tensor(b, 8));
      ops.push_back(std::move(op));
    }
    return ops;
  }
  /// gate and up of the second layer, lm_head: of several panels.
  std::vector<PlacedOp> some_ops() const {
    const ModelDims& dims = source_.config().dims;
    const TensorDesc x{DType::kF32, Shape{4, dims.hidden}};
    std::vector<PlacedOp> ops;
    ops.push_back(op_on_floats(linear_spec(weights_of(Linear::kGateUp, 1), x, DType::kF32), 3));
    ops.push_back(op_on_floats(lm_head_spec(x), 4));
    return ops;
  }
  std::vector<TensorDesc> descs_of(const OpSpec& spec) const {
    return op_results(spec, source_.config().dims).value();
  }

  const MemoryModel source_{panels_options(false, 800)};
  Segment ring_{std::size_t{1} << 20};
  std::shared_ptr<ComputeModel> group_;
  std::unique_ptr<Compute> compute_;
};

TEST_F(DeviceGroupTest, has_every_bit_of_one_device) {
  for (const Mode mode : {Mode::kLazy, Mode::kEager, Mode::kThreads}) {
    for (const std::size_t devices : {2U, 3U}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        fresh(mode);
        const auto one = one_device(dtype);
        const auto one_compute = one->make_compute({}).value();
        open_group(devices, dtype);
        const std::uint64_t pageable = cuda_fake::counters().pageable_copies;
        for (const PlacedOp& op : all_float_ops(dtype))
          expect_same_bits(*one_compute, op, descs_of(op.spec));
        EXPECT_EQ(cuda_fake::counters().pageable_copies, pageable);
        forget();
      }
    }
  }
}

TEST_F(DeviceGroupTest, has_every_bit_of_one_devices_words) {
  fresh(Mode::kLazy);
  const auto one = one_device(DType::kF32);
  const auto one_compute = one->make_compute({}).value();
  open_group(kDevices);
  std::size_t last = 0;
  std::size_t total = 0;
  const auto progress = [&](std::size_t done_bytes, std::size_t total_bytes) {
    EXPECT_GE(done_bytes, last);
    EXPECT_LE(done_bytes, total_bytes);
    last = done_bytes;
    total = total_bytes;
  };
  for (const Int8Weights choice : {Int8Weights::kW8, Int8Weights::kW16}) {
    last = total = 0;
    EXPECT_EQ(group_->prepare_int8(source_, choice, progress).value(),
              one->prepare_int8(source_, choice, {}).value());
    EXPECT_EQ(last, total);
  }
  const auto planes = [](Linear, std::uint16_t) { return std::uint8_t{2}; };
  for (const PlacedOp& op : int_ops(source_.config().dims, 5, planes))
    expect_same_bits(*one_compute, op, descs_of(op.spec));
  forget();
}

TEST_F(DeviceGroupTest, gives_the_int8_rows_of_one_device) {
  for (const Mode mode : {Mode::kEager, Mode::kLazy}) {
    fresh(mode);
    const auto one = one_device(DType::kF32);
    const auto one_compute = one->make_compute({}).value();
    open_group(kDevices);
    const TensorDesc x{DType::kF32, Shape{4, source_.config().dims.hidden}};
    for (const Linear linear : {Linear::kQkv, Linear::kGateUp}) {
      const PlacedOp op = op_on_floats(linear_spec(weights_of(linear, 1), x, DType::kI8), 3);
      expect_same_bits(*one_compute, op, descs_of(op.spec));
    }
    forget();
  }
}

TEST_F(DeviceGroupTest, is_a_share_of_a_model_too) {
  for (const Placement& placement : some_placements(source_.config())) {
    for (std::size_t rank = 0; rank < placement.ranks(); ++rank) {
      const ModelShare& share = placement.share(rank);
      if (share.empty()) continue;
      fresh(Mode::kEager);
      const auto one = one_device(DType::kF32, &share);
      const auto one_compute = one->make_compute({}).value();
      open_group(2, DType::kF32, &share);
      EXPECT_TRUE(group_->info().digest.empty());
      for (const PlacedOp& op : float_ops(source_.config().dims, 3, DType::kF32, DType::kF32)) {
        const auto descs = share_results(op.spec, source_.config().dims, share);
        if (descs.ok()) {
          expect_same_bits(*one_compute, op, *descs);
          continue;
        }
        std::vector<Tensor> tensors;
        EXPECT_EQ(run(*compute_, op.spec, memory_of(op, descs_of(op.spec), false, tensors)).code(),
                  StatusCode::kInvalidInput);
      }
      forget();
    }
  }
}

TEST_F(DeviceGroupTest, multiplies_alone_without_a_model) {
  fresh(Mode::kLazy);
  DeviceGroupGround ground;
  for (int i = 0; i < 2; ++i) {
    CudaOptions options;
    options.device = i;
    ground.devices.push_back(airlock_cuda_module()->create(nullptr, options).value());
  }
  group_ = make_device_group(std::move(ground));
  EXPECT_TRUE(group_->info().dims.is_none());
  compute_ = group_->make_compute({}).value();
  const auto one = airlock_cuda_module()->create(nullptr, {}).value();
  const auto one_compute = one->make_compute({}).value();
  const OpSpec spec = fp64_spec(6, 2, Transpose::kA);
  PlacedOp op = op_on_floats(spec, 5);
  op.inputs.push_back(random_tensor(spec.inputs[1], 6));
  for (int turn = 0; turn < 2; ++turn)
    expect_same_bits(*one_compute, op, op_results(spec, {}).value());
  forget();
}

TEST_F(DeviceGroupTest, says_what_it_is) {
  fresh(Mode::kLazy);
  open_group(2);
  const BackendInfo& info = group_->info();
  EXPECT_EQ(info.device, "2 GPUs: cuda:0 Airlock fake GPU, cuda:1 Airlock fake GPU");
  EXPECT_EQ(info.digest, source_.digest().value());
  EXPECT_EQ(compute_->info().dims, source_.config().dims);
}

TEST_F(DeviceGroupTest, gives_all_devices_their_work_before_it_waits) {
  fresh(Mode::kLazy);  // where only a wait lets work run
  open_group(2);
  const PlacedOp op = std::move(some_ops()[0]);
  std::vector<Tensor> tensors;
  const OpMemory memory = memory_of(op, descs_of(op.spec), true, tensors);
  auto pending = compute_->prepare(op.spec, memory, soon()).value();
  const auto before = cuda_fake::counters();
  ASSERT_TRUE(pending->submit().ok());
  EXPECT_EQ(cuda_fake::counters().gemms - before.gemms, 2U);
  EXPECT_EQ(cuda_fake::counters().work_run, before.work_run);
  ASSERT_TRUE(pending->wait().ok());
}

TEST_F(DeviceGroupTest, ends_an_op_at_its_deadline) {
  fresh(Mode::kLazy);
  open_group(2);
  const PlacedOp op = std::move(some_ops()[0]);
  std::vector<Tensor> tensors;
  const OpMemory memory = memory_of(op, descs_of(op.spec), true, tensors);
  cuda_fake::set_hang(true);
  auto pending =
      compute_->prepare(op.spec, memory, Deadline::after(std::chrono::milliseconds(50))).value();
  ASSERT_TRUE(pending->submit().ok());
  EXPECT_FALSE(pending->done());
  EXPECT_EQ(pending->wait().code(), StatusCode::kDeadlineExceeded);
  cuda_fake::set_hang(false);
  pending.reset();
  EXPECT_TRUE(run(*compute_, op.spec, memory).ok());
}

TEST_F(DeviceGroupTest, one_lost_device_ends_the_op_and_nothing_is_written_later) {
  for (const Mode mode : {Mode::kLazy, Mode::kEager, Mode::kThreads}) {
    bool was_lost = false;
    std::vector<bool> named(2);
    for (const PlacedOp& op : some_ops()) {
      for (const bool in_ring : {true, false}) {
        // Each copy, kernel and product of the op, on whichever device.
        for (std::uint64_t nth = 1;; ++nth) {
          fresh(mode, std::exchange(was_lost, false));
          open_group(2);
          std::vector<Tensor> tensors;
          const OpMemory memory = memory_of(op, descs_of(op.spec), in_ring, tensors);
          cuda_fake::lose_device_at_work(cuda_fake::counters().work_run + nth,
                                         cudaErrorECCUncorrectable);
          const Status status = run(*compute_, op.spec, memory);
          for (const MutableTensorView& result : memory.results)
            std::ranges::fill(result.bytes(), kUntouched);
          if (cuda_fake::counters().injected_failures == 0) {
            EXPECT_TRUE(status.ok()) << status.to_string();
            break;
          }
          was_lost = true;
          EXPECT_EQ(status.code(), StatusCode::kDevice) << status.to_string();
          const Status health = group_->health();
          EXPECT_EQ(health.code(), StatusCode::kDevice);
          EXPECT_THAT(health.message(), ::testing::StartsWith("cuda:"));
          EXPECT_EQ(run(*compute_, op.spec, memory).code(), StatusCode::kDevice);
          for (std::size_t i = 0; i < named.size(); ++i)
            named[i] = named[i] || health.message().starts_with("cuda:" + std::to_string(i));
          forget();
          for (const MutableTensorView& result : memory.results) {
            EXPECT_TRUE(std::ranges::all_of(result.bytes(),
                                            [](std::byte byte) { return byte == kUntouched; }));
          }
        }
      }
    }
    EXPECT_THAT(named, ::testing::ElementsAre(true, true));
    fresh(mode, was_lost);
  }
}

TEST_F(DeviceGroupTest, a_call_that_fails_on_one_device_fails_the_op_alone) {
  const PlacedOp op = std::move(some_ops()[0]);
  for (const bool in_ring : {true, false}) {
    std::uint64_t failures = 0;
    for (std::uint64_t nth = 1;; ++nth) {
      fresh(Mode::kEager, group_ != nullptr && !group_->health().ok());
      open_group(2);
      std::vector<Tensor> tensors;
      const OpMemory memory = memory_of(op, descs_of(op.spec), in_ring, tensors);
      cuda_fake::fail_call(cuda_fake::call_count() + nth, cudaErrorMemoryAllocation);
      const Status status = run(*compute_, op.spec, memory);
      if (cuda_fake::counters().injected_failures == 0) break;
      ++failures;
      EXPECT_TRUE(status.ok() || status.code() == StatusCode::kResourceExhausted ||
                  status.code() == StatusCode::kDevice)
          << status.to_string();
      if (group_->health().ok()) {
        EXPECT_TRUE(run(*compute_, op.spec, memory).ok());
      }
    }
    EXPECT_GT(failures, 20U);
  }
}

}  // namespace
}  // namespace airlock::testing
