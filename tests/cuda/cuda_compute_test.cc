#include <cuda_runtime_api.h>

#include <algorithm>
#include <set>
#include <thread>

#include "runtime/local_backend.h"
#include "tests/cuda/fake_rig.h"

namespace airlock::testing {
namespace {

using cuda_fake::Mode;
using enum WeightKind;

class CudaComputeTest : public FakeCudaTest {};

TEST_F(CudaComputeTest, copies_registered_memory_where_it_lies) {
  Segment request(1 << 20);
  Segment reply(1 << 20);
  open({request.bytes(), reply.bytes()});
  const OpSpec spec = linear(4, {{kQ, 0}, {kK, 0}});
  const std::vector<Tensor> x = inputs_of(spec);
  const std::vector<TensorView> in{request.place(4096, spec.inputs[0], x.data())};
  const auto descs = op_results(spec, dims()).value();
  const std::vector<MutableTensorView> out{reply.place(0, descs[0]), reply.place(65536, descs[1])};
  const auto before = cuda_fake::counters();
  ASSERT_TRUE(run_op(*compute_, spec, in, out).ok());
  const auto after = cuda_fake::counters();
  EXPECT_EQ(after.pinned_copies - before.pinned_copies, 3U);
  EXPECT_EQ(after.pageable_copies, 0U);
  EXPECT_EQ(after.bytes_in - before.bytes_in, spec.inputs[0].bytes());
  EXPECT_EQ(after.bytes_out - before.bytes_out, descs[0].bytes() + descs[1].bytes());
}

TEST_F(CudaComputeTest, sends_other_memory_through_pinned_pieces) {
  open();
  // Results of over four pieces of 4 MiB, one of them among others' rows.
  const OpSpec spec = linear(3000, {{kGate, 0}, {kUp, 0}, {kQ, 0}});
  ASSERT_TRUE(run_op(*compute_, spec).ok());
  EXPECT_EQ(cuda_fake::counters().pageable_copies, 0U);
  const OpSpec heads = lm_head_spec({DType::kF32, Shape{9000, dims().hidden}});
  std::vector<Tensor> results = results_of(heads);
  const std::vector<Tensor> x = inputs_of(heads);
  const std::vector<TensorView> in{x[0].view()};
  const auto out = views_of(results);
  auto op = compute_->prepare(heads, {in, out}, soon());
  ASSERT_TRUE(op.ok());
  ASSERT_TRUE((*op)->submit().ok());
  ASSERT_TRUE((*op)->wait().ok());
  // The last row, by itself: no piece was lost on the way.
  const OpSpec last = lm_head_spec({DType::kF32, Shape{1, dims().hidden}});
  const std::vector<TensorView> row{
      {x[0].view().data + 8999 * last.inputs[0].bytes(), last.inputs[0]}};
  std::vector<Tensor> one = results_of(last);
  ASSERT_TRUE(run_op(*compute_, last, row, views_of(one)).ok());
  const auto all = results[0].as<float>();
  EXPECT_TRUE(std::ranges::equal(one[0].as<float>(), all.last(one[0].as<float>().size())));
}

TEST_F(CudaComputeTest, writes_columns_of_wider_results_and_nothing_beside_them) {
  constexpr std::size_t kBefore = 64;
  constexpr std::byte kUntouched{0x5a};
  const OpSpec spec = linear(2600, {{kGate, 0}, {kQ, 0}});  // over a piece
  for (const bool in_ring : {true, false}) {
    for (const DType wire : {DType::kF32, DType::kBF16}) {  // the second is converted
      Segment ring(std::size_t{16} << 20);
      open(in_ring ? std::vector{ring.bytes()} : std::vector<std::span<std::byte>>());
      const OpSpec its = linear_spec(spec.weights, spec.inputs[0], wire);
      const std::vector<Tensor> x = inputs_of(its);
      std::vector<Tensor> want = results_of(its);
      ASSERT_TRUE(run_op(*compute_, its, x, views_of(want)).ok());
      std::ranges::fill(ring.bytes(), kUntouched);
      OpMemory memory{{x[0].view()}, {}, {}};
      std::size_t offset = kBefore;
      for (const Tensor& result : want) {
        memory.results.push_back(ring.place(offset, result.desc()));
        memory.pitches.push_back(result.desc().bytes() / 2600 + 96);
        offset += 2600 * memory.pitches.back();
      }
      auto op = compute_->prepare(its, memory, soon());
      ASSERT_TRUE(op.ok());
      ASSERT_TRUE((*op)->submit().ok());
      ASSERT_TRUE((*op)->wait().ok());
      for (std::size_t i = 0; i < want.size(); ++i) {
        const std::span bytes = want[i].view().bytes();
        const std::size_t width = bytes.size() / 2600;
        for (std::size_t row = 0; row < 2600; ++row) {
          std::byte* at = memory.results[i].data + row * memory.pitches[i];
          ASSERT_EQ(std::memcmp(at, bytes.data() + row * width, width), 0) << row;
          std::memset(at, std::to_integer<int>(kUntouched), width);
        }
      }
      EXPECT_TRUE(std::ranges::all_of(ring.bytes(), [](std::byte b) { return b == kUntouched; }));
      EXPECT_EQ(cuda_fake::counters().pageable_copies, 0U);
      compute_.reset();  // before the ring
    }
  }
}

TEST_F(CudaComputeTest, works_with_memory_that_cannot_be_pinned_and_says_so_once) {
  restart({.register_fails = true});
  Segment request(1 << 20);
  open({request.bytes()});
  for (const OpSpec& spec : one_of_each(DType::kBF16))
    EXPECT_TRUE(run_op(*compute_, spec).ok()) << name_of(spec.op);
  auto second = model_on_device_->make_compute(std::vector{request.bytes()});
  ASSERT_TRUE(second.ok());
  EXPECT_TRUE(run_op(**second, linear(300, {{kQ, 0}})).ok());
  EXPECT_GT(cuda_fake::counters().pageable_copies, 0U);
  EXPECT_EQ(std::ranges::count_if(
                warnings_,
                [](const auto& text) { return text.find("locked memory") != std::string::npos; }),
            1);
}

TEST_F(CudaComputeTest, multiplies_weights_that_lie_together_at_once) {
  open();
  const auto products = [&](const OpSpec& spec) {
    const std::uint64_t before = cuda_fake::counters().gemms;
    EXPECT_TRUE(run_op(*compute_, spec).ok());
    return cuda_fake::counters().gemms - before;
  };
  EXPECT_EQ(products(linear(4, {{kQ, 1}, {kK, 1}, {kV, 1}})), 1U);
  EXPECT_EQ(products(linear(4, {{kGate, 0}, {kUp, 0}})), 1U);
  EXPECT_EQ(products(linear(4, {{kK, 0}, {kV, 0}})), 1U);
  EXPECT_EQ(products(linear(4, {{kV, 0}, {kQ, 0}})), 2U);
  EXPECT_EQ(products(linear(4, {{kQ, 0}, {kV, 0}})), 2U);
  EXPECT_EQ(products(linear(4, {{kQ, 0}, {kK, 1}})), 2U);
  const auto heads = [&](Transpose transpose, std::int64_t groups) {
    const Shape a = transpose == Transpose::kA ? Shape{6, 5, 4} : Shape{6, 4, 5};
    const Shape b = transpose == Transpose::kB ? Shape{groups, 3, 5} : Shape{groups, 5, 3};
    return products(matmul_spec({DType::kF32, a}, {DType::kF32, b}, transpose, DType::kF32));
  };
  EXPECT_EQ(heads(Transpose::kNone, 2), 1U);
  EXPECT_EQ(heads(Transpose::kB, 2), 1U);
  EXPECT_EQ(heads(Transpose::kA, 6), 1U);
  EXPECT_EQ(heads(Transpose::kA, 2), 2U);  // one a group, its b met by stride 0
}

TEST_F(CudaComputeTest, accumulates_in_fp32_and_rounds_to_tf32_only_where_asked) {
  for (const bool tf32 : {false, true}) {
    restart({});
    CudaOptions options;
    options.tf32 = tf32;
    auto made = airlock_cuda_module()->create(&model_, options);
    ASSERT_TRUE(made.ok());
    for (const cuda_fake::GemmCall& call : cuda_fake::gemm_calls()) {
      EXPECT_EQ(call.compute_type, 68);              // CUBLAS_COMPUTE_32F
      EXPECT_EQ(call.math_mode & 15, tf32 ? 3 : 0);  // CUBLAS_TF32_TENSOR_OP_MATH
      EXPECT_NE(call.math_mode & 16, 0);  // CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
    }
    EXPECT_FALSE(cuda_fake::gemm_calls().empty());
  }
}

TEST_F(CudaComputeTest, multiplies_fp64_as_it_is_whatever_the_weights_are) {
  for (const DType weights : {DType::kF32, DType::kBF16}) {
    restart({});
    load(weights);
    Segment ring(1 << 20);
    open({ring.bytes()});
    for (const Transpose transpose : {Transpose::kNone, Transpose::kA, Transpose::kB}) {
      for (const auto& [heads, groups] :
           std::vector<std::pair<int, int>>{{1, 1}, {4, 4}, {6, 2}, {6, 1}}) {
        const OpSpec spec = fp64_spec(heads, groups, transpose);
        SCOPED_TRACE(spec.inputs[0].shape.to_string() + " x " + spec.inputs[1].shape.to_string());
        const std::vector<Tensor> values = inputs_of(spec);
        const std::vector<TensorView> in{ring.place(0, spec.inputs[0], &values[0]),
                                         ring.place(65536, spec.inputs[1], &values[1])};
        const TensorDesc result = op_results(spec, dims()).value()[0];
        const auto before = cuda_fake::counters();
        ASSERT_TRUE(run_op(*compute_, spec, in, {ring.place(131072, result)}).ok());
        const auto after = cuda_fake::counters();
        EXPECT_EQ(after.kernels, before.kernels);  // nothing is converted
        EXPECT_EQ(after.bytes_in - before.bytes_in, in[0].desc.bytes() + in[1].desc.bytes());
        EXPECT_EQ(after.bytes_out - before.bytes_out, result.bytes());
        EXPECT_EQ(cuda_fake::gemm_calls().back().compute_type, 70);  // CUBLAS_COMPUTE_64F
      }
    }
    // Results that go through more than one pinned piece.
    const TensorDesc a{DType::kF64, Shape{2, 700, 3}};
    const TensorDesc b{DType::kF64, Shape{2, 3, 600}};
    EXPECT_TRUE(run_op(*compute_, matmul_spec(a, b, Transpose::kNone, DType::kF64)).ok());
  }
}

TEST_F(CudaComputeTest, rounds_no_fp64_to_tf32) {
  CudaOptions options;
  options.tf32 = true;
  auto made = airlock_cuda_module()->create(&model_, options);
  ASSERT_TRUE(made.ok());
  auto compute = made.value()->make_compute({});
  ASSERT_TRUE(compute.ok());
  EXPECT_TRUE(run_op(**compute, fp64_spec(6, 2, Transpose::kB)).ok());
}

TEST_F(CudaComputeTest, keeps_fp64_apart_from_ops_that_are_converted) {
  for (const Mode mode : {Mode::kLazy, Mode::kEager, Mode::kThreads}) {
    restart({.mode = mode});
    load(DType::kBF16);
    open();
    // More than there are lanes: each lane's buffers serve both.
    std::vector<OpSpec> specs;
    for (int round = 0; round < 3; ++round) {
      specs.push_back(fp64_spec(6, 2, Transpose::kNone));
      specs.push_back(linear(4, {{kQ, 0}, {kUp, 1}}));
      specs.push_back(fp64_spec(4, 1, Transpose::kA));
    }
    std::vector<OpTensors> tensors;
    std::vector<std::unique_ptr<Computation>> ops;
    for (const OpSpec& spec : specs) tensors.push_back(tensors_of(spec));
    for (std::size_t i = 0; i < specs.size(); ++i) {
      auto op = compute_->prepare(specs[i], tensors[i].memory(), soon());
      ASSERT_TRUE(op.ok());
      ops.push_back(std::move(op).value());
      ASSERT_TRUE(ops.back()->submit().ok());
    }
    for (std::size_t i = 0; i < specs.size(); ++i) {
      ASSERT_TRUE(ops[i]->wait().ok());
      const OpMemory memory = tensors[i].memory();
      expect_right(*compute_, specs[i], memory.inputs, memory.results);
    }
  }
}

TEST_F(CudaComputeTest, names_what_multiplies_fp64) {
  for (const ModelSource* model : {static_cast<const ModelSource*>(&model_), kNoModel}) {
    const auto made = create(model, DType::kF32);
    ASSERT_TRUE(made.ok());
    EXPECT_FALSE(made.value()->device().cublas.empty());
    EXPECT_EQ(made.value()->info().fp64_products, "cuBLAS " + made.value()->device().cublas);
  }
}

TEST_F(CudaComputeTest, multiplies_alone_without_a_model) {
  auto made = create(kNoModel, DType::kBF16);  // a dtype is the weights': there are none
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  model_on_device_ = std::move(made).value();
  const BackendInfo& info = model_on_device_->info();
  EXPECT_TRUE(info.dims.is_none());
  EXPECT_EQ(info.dtype, DType::kF32);
  EXPECT_EQ(info.stored_dtype, DType::kF32);
  EXPECT_TRUE(info.digest.empty());
  EXPECT_TRUE(info.device.starts_with("cuda:0 "));
  EXPECT_EQ(cuda_fake::call_count("cudaMalloc"), 1U);  // cuBLAS's workspace
  std::vector<int> warm;
  for (const cuda_fake::GemmCall& call : cuda_fake::gemm_calls()) warm.push_back(call.compute_type);
  EXPECT_EQ(warm, (std::vector<int>{68, 70}));  // CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_64F
  open();
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kF64}) {
    const TensorDesc a{type, Shape{6, 4, 18}};
    const TensorDesc b{type, Shape{2, 7, 18}};
    EXPECT_TRUE(run_op(*compute_, matmul_spec(a, b, Transpose::kB, type)).ok()) << name_of(type);
  }
  LocalBackend backend(std::move(compute_));
  for (const OpSpec& spec : {embedding_spec(3, DType::kF32), linear(4, {{kQ, 0}}),
                             lm_head_spec({DType::kF32, Shape{2, dims().hidden}})}) {
    const auto refused = backend.prepare(spec, soon());
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), StatusCode::kInvalidInput);
    EXPECT_NE(refused.status().message().find("no model"), std::string::npos)
        << refused.status().message();
  }
}

TEST_F(CudaComputeTest, has_the_next_ops_input_on_its_way_while_one_computes) {
  restart({.mode = Mode::kLazy});
  Segment ring(1 << 20);
  open({ring.bytes()});
  const OpSpec spec = linear(4, {{kQ, 0}});
  const TensorDesc result = op_results(spec, dims()).value()[0];
  std::size_t slot = 0;
  const auto prepare = [&] {
    const MutableTensorView in = ring.place(slot++ * 65536, spec.inputs[0]);
    return compute_->prepare(spec, {{in}, {ring.place(slot++ * 65536, result)}}, soon());
  };
  auto first = prepare();
  auto second = prepare();
  auto third = prepare();
  ASSERT_TRUE(first.ok() && second.ok() && third.ok());
  const auto copies = [] { return cuda_fake::call_count("cudaMemcpyAsync"); };
  const std::uint64_t start = copies();
  const std::uint64_t ran = cuda_fake::counters().work_run;
  ASSERT_TRUE((*first)->submit().ok());
  ASSERT_TRUE((*second)->submit().ok());
  EXPECT_EQ(copies() - start, 4U);  // in and out of both are queued
  EXPECT_EQ(cuda_fake::counters().work_run, ran);
  cuda_fake::set_hang(true);
  ASSERT_TRUE((*third)->submit().ok());
  EXPECT_EQ(copies() - start, 4U);  // there are two lanes
  cuda_fake::set_hang(false);
  EXPECT_TRUE((*first)->wait().ok());
  EXPECT_EQ(copies() - start, 6U);
  EXPECT_TRUE((*third)->wait().ok());
  EXPECT_TRUE((*second)->wait().ok());
}

TEST_F(CudaComputeTest, gives_results_that_go_through_pieces_before_the_next_op_has_computed) {
  restart({.mode = Mode::kLazy});
  open();
  const OpSpec spec = linear(4, {{kQ, 0}});
  const std::vector<Tensor> x = inputs_of(spec);
  const std::vector<TensorView> in{x[0].view()};
  std::vector<Tensor> memory[] = {results_of(spec), results_of(spec)};
  const auto out0 = views_of(memory[0]);
  const auto out1 = views_of(memory[1]);
  auto first = compute_->prepare(spec, {in, out0}, soon());
  auto second = compute_->prepare(spec, {in, out1}, soon());
  ASSERT_TRUE(first.ok() && second.ok());
  ASSERT_TRUE((*first)->submit().ok());
  ASSERT_TRUE((*second)->submit().ok());
  const std::uint64_t ran = cuda_fake::counters().work_run;
  EXPECT_TRUE((*first)->wait().ok());
  EXPECT_EQ(cuda_fake::counters().work_run, ran + 3);  // its copy in, product and copy out
  EXPECT_TRUE((*second)->wait().ok());
  expect_right(*compute_, spec, in, out0);
  expect_right(*compute_, spec, in, out1);
}

TEST_F(CudaComputeTest, has_run_each_kind_of_product_before_the_first_session) {
  load();
  EXPECT_GT(cuda_fake::call_count("cublasGemmEx"), 0U);
  EXPECT_GT(cuda_fake::call_count("cublasGemmStridedBatchedEx"), 0U);
  EXPECT_GT(cuda_fake::call_count("launch_gather"), 0U);
}

TEST_F(CudaComputeTest, says_how_long_the_device_took_by_part) {
  restart({.mode = Mode::kEager});
  open();
  ASSERT_TRUE(run_op(*compute_, linear(200, {{kGate, 0}, {kUp, 0}})).ok());
  EXPECT_GT(times_.device.copy_in_ns, 0U);
  EXPECT_GT(times_.device.compute_ns, 0U);
  EXPECT_GT(times_.device.copy_out_ns, 0U);
  EXPECT_LE(times_.server_ns,
            times_.device.copy_in_ns + times_.device.compute_ns + times_.device.copy_out_ns);
  EXPECT_GT(times_.server_ns, 0U);
  EXPECT_EQ(times_.total_ns, times_.tee_ns + times_.wire_ns + times_.queue_ns + times_.server_ns);
}

TEST_F(CudaComputeTest, serves_sessions_on_threads_of_their_own) {
  restart({.mode = Mode::kThreads});
  load(DType::kBF16);
  std::vector<std::thread> sessions;
  for (int session = 0; session < 3; ++session) {
    sessions.emplace_back([&] {
      Segment ring(1 << 20);
      auto compute = model_on_device_->make_compute(std::vector{ring.bytes()});
      ASSERT_TRUE(compute.ok());
      for (int round = 0; round < 3; ++round) {
        for (const OpSpec& spec : one_of_each(DType::kBF16)) {
          OpTensors tensors = tensors_of(spec);
          auto op = (*compute)->prepare(spec, tensors.memory(), soon());
          ASSERT_TRUE(op.ok());
          ASSERT_TRUE((*op)->submit().ok());
          ASSERT_TRUE((*op)->wait().ok());
        }
      }
    });
  }
  for (std::thread& session : sessions) session.join();
}

TEST_F(CudaComputeTest, destroys_no_cublas_handle_while_it_serves) {
  load();
  const std::uint64_t made = cuda_fake::call_count("cublasCreate");
  const std::uint64_t destroyed = cuda_fake::call_count("cublasDestroy");
  const std::uint64_t freed = cuda_fake::call_count("cudaFree");
  for (int session = 0; session < 3; ++session) {
    std::thread([&] {
      auto compute = model_on_device_->make_compute({});
      ASSERT_TRUE(compute.ok());
      EXPECT_TRUE(run_op(**compute, linear(4, {{kQ, 0}})).ok());
    }).join();
  }
  EXPECT_EQ(cuda_fake::call_count("cublasCreate"), made);  // the warm-up's serves them all
  EXPECT_EQ(cuda_fake::call_count("cublasDestroy"), destroyed);
  EXPECT_EQ(cuda_fake::call_count("cudaFree"), freed);
}

TEST_F(CudaComputeTest, says_what_the_weights_need_and_what_is_free) {
  restart({.memory_bytes = std::size_t{1} << 20});
  const auto made = create();
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(made.status().message().find("need"), std::string::npos) << made.status().message();
  EXPECT_NE(made.status().message().find("free"), std::string::npos) << made.status().message();
}

TEST_F(CudaComputeTest, gives_the_models_error_and_frees_all) {
  MemoryModel::Options options;
  options.broken_tensor = "model.layers.1.mlp.up_proj.weight";
  const MemoryModel broken(options);
  const auto made = airlock_cuda_module()->create(&broken, {});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), StatusCode::kInvalidInput);
  EXPECT_NE(made.status().message().find(options.broken_tensor), std::string::npos);
}

TEST_F(CudaComputeTest, names_a_device_that_is_not_there) {
  CudaOptions options;
  options.device = 1;
  const auto made = airlock_cuda_module()->create(&model_, options);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), StatusCode::kDevice);
  EXPECT_NE(made.status().message().find("cuda:1"), std::string::npos) << made.status().message();
}

TEST_F(CudaComputeTest, names_a_driver_that_is_too_old) {
  restart({.driver_version = 11040});
  const auto made = create();
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), StatusCode::kDevice);
  EXPECT_NE(made.status().message().find("11.4"), std::string::npos) << made.status().message();
}

TEST_F(CudaComputeTest, fails_an_op_for_which_device_memory_lacks_and_goes_on) {
  restart({.memory_bytes = std::size_t{48} << 20});
  load();
  open();
  const OpSpec large = lm_head_spec({DType::kF32, Shape{20000, dims().hidden}});
  OpTensors tensors = tensors_of(large);
  auto op = compute_->prepare(large, tensors.memory(), soon());
  ASSERT_TRUE(op.ok());
  Status status = (*op)->submit();
  if (status.ok()) status = (*op)->wait();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.to_string();
  EXPECT_TRUE(model_on_device_->health().ok());
  EXPECT_TRUE(run_op(*compute_, linear(4, {{kQ, 0}})).ok());
}

TEST_F(CudaComputeTest, gives_idle_memory_back_before_an_op_fails) {
  restart({.memory_bytes = std::size_t{64} << 20});
  load();
  open();
  // Two lanes hold what the first ops needed; a larger one finds room all the same.
  const OpSpec middle = lm_head_spec({DType::kF32, Shape{3000, dims().hidden}});
  const OpSpec large = lm_head_spec({DType::kF32, Shape{9000, dims().hidden}});
  for (const OpSpec& spec : {middle, large}) {
    OpTensors tensors = tensors_of(spec);
    auto op = compute_->prepare(spec, tensors.memory(), soon());
    ASSERT_TRUE(op.ok());
    ASSERT_TRUE((*op)->submit().ok());
    const Status status = (*op)->wait();
    EXPECT_TRUE(status.ok()) << status.to_string();
  }
}

TEST_F(CudaComputeTest, is_lost_after_an_error_that_stays) {
  load();
  open();
  cuda_fake::lose_device_at_work(cuda_fake::counters().work_run + 2, cudaErrorIllegalAddress);
  const Status status = run_op(*compute_, linear(4, {{kQ, 0}}));
  EXPECT_EQ(status.code(), StatusCode::kDevice);
  EXPECT_NE(status.message().find("cudaErrorIllegalAddress"), std::string::npos)
      << status.message();
  EXPECT_EQ(model_on_device_->health().code(), StatusCode::kDevice);
  EXPECT_EQ(compute_->prepare(linear(4, {{kQ, 0}}), {}, soon()).status().code(),
            StatusCode::kDevice);
  EXPECT_EQ(model_on_device_->make_compute({}).status().code(), StatusCode::kDevice);
}

TEST_F(CudaComputeTest, gives_up_an_op_at_its_deadline_and_a_device_that_hangs) {
  load();
  open();
  cuda_fake::set_hang(true);
  const OpSpec spec = linear(4, {{kQ, 0}});
  OpTensors tensors = tensors_of(spec);
  {
    auto op =
        compute_->prepare(spec, tensors.memory(), Deadline::after(std::chrono::milliseconds(20)));
    ASSERT_TRUE(op.ok());
    ASSERT_TRUE((*op)->submit().ok());
    EXPECT_FALSE((*op)->done());
    EXPECT_EQ((*op)->wait().code(), StatusCode::kDeadlineExceeded);
    EXPECT_TRUE(model_on_device_->health().ok());
  }
  EXPECT_EQ(model_on_device_->health().code(), StatusCode::kDevice);
  EXPECT_NE(model_on_device_->health().message().find("hangs"), std::string::npos);
}

TEST_F(CudaComputeTest, keeps_an_abandoned_ops_memory_until_the_device_is_through_with_it) {
  restart({.mode = Mode::kLazy});
  Segment ring(1 << 20);
  open({ring.bytes()});
  const OpSpec spec = linear(4, {{kQ, 0}});
  const std::vector<Tensor> x = inputs_of(spec);
  const std::vector<TensorView> in{ring.place(0, spec.inputs[0], x.data())};
  const std::vector<MutableTensorView> out{ring.place(65536, op_results(spec, dims()).value()[0])};
  const std::uint64_t ran = cuda_fake::counters().work_run;
  {
    auto op = compute_->prepare(spec, {in, out}, soon());
    ASSERT_TRUE(op.ok());
    ASSERT_TRUE((*op)->submit().ok());
    EXPECT_EQ(cuda_fake::counters().work_run, ran);
  }
  EXPECT_EQ(cuda_fake::counters().work_run, ran + 3);
  std::memset(ring.bytes().data(), 1, ring.bytes().size());  // whoever gets the slots next
  EXPECT_TRUE(run_op(*compute_, spec).ok());
}

}  // namespace
}  // namespace airlock::testing
