#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>

#include "base/deadline.h"
#include "bench/cuda/bare_gemm.h"
#include "bench/cuda/bench_model.h"
#include "bench/cuda/check.h"
#include "bench/cuda/cuda_bench.h"
#include "proto/limits.h"
#include "proto/op.h"

namespace airlock::bench {

namespace {

constexpr std::chrono::minutes kOpLimit{2};
constexpr std::size_t kLanes = 2;  // as many ops as a session has under way
constexpr std::size_t kInputs = 2;
constexpr std::size_t kResults = 3;

/// A ring's slots of one direction, as a session has them.
class Slots {
 public:
  explicit Slots(std::size_t count)
      : size_(count * limits::kDefaultSlotBytes),
        data_(::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    if (data_ == MAP_FAILED) fail("mmap of the slots", std::strerror(errno));
  }
  ~Slots() { ::munmap(data_, size_); }
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;
  std::span<std::byte> all() const { return {static_cast<std::byte*>(data_), size_}; }
  std::byte* slot(std::size_t index) const { return &all()[index * limits::kDefaultSlotBytes]; }

 private:
  std::size_t size_;
  void* data_;
};

/// Operands and results of one op under way: in slots where they are small enough, else in memory
/// of their own, as the server has those that came by ZeroMQ.
class Lane {
 public:
  Lane(const OpSpec& spec, const ModelDims& dims, const Slots& requests, const Slots& replies,
       std::size_t index)
      : spec_(spec) {
    for (std::size_t i = 0; i < spec.inputs.size(); ++i) {
      std::byte* data = place(spec.inputs[i], requests.slot(index * kInputs + i));
      const std::span<std::byte> bytes{data, spec.inputs[i].bytes()};
      if (spec.op == Op::kEmbedding) {
        std::memset(data, 0, bytes.size());  // row 0, over and over
      } else {
        fill_random(bytes, spec.inputs[i].dtype, index + i);
      }
      memory_.inputs.push_back({data, spec.inputs[i]});
    }
    const auto results = op_results(spec, dims);
    must(results.status(), "op_results");
    for (std::size_t i = 0; i < results->size(); ++i) {
      const TensorDesc& desc = (*results)[i];
      memory_.results.push_back({place(desc, replies.slot(index * kResults + i)), desc});
    }
  }

  Status submit(Compute& compute) {
    start_ns_ = now_ns();
    ASSIGN_OR_RETURN(computation_, compute.prepare(spec_, memory_, Deadline::after(kOpLimit)));
    return computation_->submit();
  }
  /// Also gives the time since submit() was called.
  Result<std::pair<OpTimes, double>> finish() {
    RETURN_IF_ERROR(computation_->wait());
    const double whole_ns = static_cast<double>(now_ns() - start_ns_);
    const OpTimes times = computation_->times();
    computation_.reset();
    return std::pair(times, whole_ns);
  }
  bool all_in_slots() const { return owned_.empty(); }

 private:
  std::byte* place(const TensorDesc& desc, std::byte* slot) {
    if (desc.bytes() < limits::kDefaultSlotBytes) return slot;
    owned_.push_back(std::make_unique<Tensor>(desc));
    return owned_.back()->mutable_view().data;
  }

  OpSpec spec_;
  std::vector<std::unique_ptr<Tensor>> owned_;
  OpMemory memory_;
  std::unique_ptr<Computation> computation_;
  std::uint64_t start_ns_ = 0;
};

struct Case {
  std::string op;
  std::string dtype;  // of what is multiplied
  std::int64_t tokens = 0;
  OpSpec spec;
  std::optional<Product> product;  // none: nothing that cuBLAS has
};

/// What a layer asks for.
std::vector<std::pair<std::string, std::vector<WeightId>>> linear_groups() {
  using enum WeightKind;
  return {{"qkv", {{kQ, 0}, {kK, 0}, {kV, 0}}},
          {"o", {{kO, 0}}},
          {"gate_up", {{kGate, 0}, {kUp, 0}}},
          {"down", {{kDown, 0}}}};
}

std::vector<Case> linear_cases(const ModelDims& dims, DType dtype, std::int64_t tokens) {
  std::vector<Case> cases;
  for (const auto& [name, weights] : linear_groups()) {
    Product product{.m = tokens, .operands = dtype, .result = dtype};
    for (const WeightId& id : weights) product.n += weight_shape(dims, id.kind)[0];
    product.k = weight_shape(dims, weights[0].kind)[1];
    const TensorDesc input{dtype, Shape{tokens, product.k}};
    cases.push_back(
        {name, std::string(name_of(dtype)), tokens, linear_spec(weights, input, dtype), product});
  }
  return cases;
}

/// Grouped-query attention: the heads of a group lie one after the other, so to cuBLAS a group is
/// one product of heads / groups times as many rows.
std::vector<Case> attention_cases(const ModelDims& dims, DType dtype, std::int64_t tokens) {
  const TensorDesc q{dtype, Shape{dims.heads, tokens, dims.head_dim}};
  const TensorDesc kv{dtype, Shape{dims.kv_heads, tokens, dims.head_dim}};
  const TensorDesc scores{dtype, Shape{dims.heads, tokens, tokens}};
  const Product qk{.batch = dims.kv_heads,
                   .m = dims.heads / dims.kv_heads * tokens,
                   .n = tokens,
                   .k = dims.head_dim,
                   .b_transposed = true,
                   .operands = dtype,
                   .result = dtype};
  Product pv = qk;
  pv.n = dims.head_dim;
  pv.k = tokens;
  pv.b_transposed = false;
  const std::string type(name_of(dtype));
  return {{"qk", type, tokens, matmul_spec(q, kv, Transpose::kB, dtype), qk},
          {"pv", type, tokens, matmul_spec(scores, kv, Transpose::kNone, dtype), pv}};
}

Case lm_head_case(const ModelDims& dims, DType dtype, std::int64_t rows) {
  const Product product{
      .m = rows, .n = dims.vocab, .k = dims.hidden, .operands = dtype, .result = DType::kF32};
  return {"lm_head", std::string(name_of(dtype)), rows,
          lm_head_spec({dtype, Shape{rows, dims.hidden}}), product};
}

std::vector<Case> cases_of(const ModelDims& dims, DType dtype,
                           const std::vector<std::int64_t>& tokens) {
  std::vector<Case> cases{lm_head_case(dims, dtype, 1)};
  for (const std::int64_t count : tokens) {
    cases.push_back({"embedding", std::string(name_of(dtype)), count, embedding_spec(count, dtype),
                     std::nullopt});
    for (Case& c : linear_cases(dims, dtype, count)) cases.push_back(std::move(c));
    for (Case& c : attention_cases(dims, dtype, count)) cases.push_back(std::move(c));
  }
  cases.push_back(lm_head_case(dims, dtype, 128));
  return cases;
}

/// A word's four digits are four rows to the bare call, of the sizes that the module asks for.
Case int_case(const std::string& name, const std::vector<WeightId>& weights, const ModelDims& dims,
              std::int64_t rows) {
  constexpr std::int64_t kMultiple = 16;
  const auto rounded = [](std::int64_t count) {
    return (count + kMultiple - 1) / kMultiple * kMultiple;
  };
  const OpSpec spec = int_linear_spec(weights, 1, rows, dims);
  Product product{.m = 4 * rows, .operands = DType::kU8, .result = DType::kI32};
  for (const Shape& shape : weight_shapes(spec, dims)) product.n += shape[0];
  product.n = rounded(product.n);
  product.k = rounded(spec.inputs[0].shape[1]);
  return {"int_" + name, "int8", rows, spec, product};
}

std::vector<Case> int_cases(const ModelDims& dims, const std::vector<std::int64_t>& tokens) {
  std::vector<Case> cases{int_case("lm_head", {}, dims, 1)};
  for (const std::int64_t count : tokens) {
    for (const auto& [name, weights] : linear_groups())
      cases.push_back(int_case(name, weights, dims, count));
  }
  return cases;
}

struct OurTimes {
  std::vector<double> copy_in_ns;   // by the device's clock
  std::vector<double> compute_ns;   // likewise
  std::vector<double> copy_out_ns;  // likewise
  std::vector<double> server_ns;    // from submit to result, as the server books it
  std::vector<double> queue_ns;
  std::vector<double> whole_ns;  // prepare to result, one op at a time
  double two_under_way_ns = 0;   // an op's share where two are under way
  bool in_slots = true;
};

Result<OurTimes> time_ours(Compute& compute, const Case& c, const Slots& requests,
                           const Slots& replies, int calls) {
  constexpr int kWarmUp = 5;
  std::array<std::unique_ptr<Lane>, kLanes> lanes;
  for (std::size_t i = 0; i < kLanes; ++i)
    lanes[i] = std::make_unique<Lane>(c.spec, compute.info().dims, requests, replies, i);
  OurTimes times;
  times.in_slots = lanes[0]->all_in_slots();
  for (int i = 0; i < kWarmUp + calls; ++i) {
    Lane& lane = *lanes[static_cast<std::size_t>(i) % kLanes];
    RETURN_IF_ERROR(lane.submit(compute));
    ASSIGN_OR_RETURN(const auto took, lane.finish());
    if (i < kWarmUp) continue;
    const auto& [op, whole_ns] = took;
    times.copy_in_ns.push_back(static_cast<double>(op.device.copy_in_ns));
    times.compute_ns.push_back(static_cast<double>(op.device.compute_ns));
    times.copy_out_ns.push_back(static_cast<double>(op.device.copy_out_ns));
    times.server_ns.push_back(static_cast<double>(op.server_ns));
    times.queue_ns.push_back(static_cast<double>(op.queue_ns));
    times.whole_ns.push_back(whole_ns);
  }
  const std::uint64_t start = now_ns();
  RETURN_IF_ERROR(lanes[0]->submit(compute));
  for (int i = 1; i < calls; ++i) {
    RETURN_IF_ERROR(lanes[static_cast<std::size_t>(i) % kLanes]->submit(compute));
    RETURN_IF_ERROR(lanes[static_cast<std::size_t>(i - 1) % kLanes]->finish().status());
  }
  RETURN_IF_ERROR(lanes[static_cast<std::size_t>(calls - 1) % kLanes]->finish().status());
  times.two_under_way_ns = static_cast<double>(now_ns() - start) / calls;
  return times;
}

std::string op_record(const std::string& model, const Case& c, const OurTimes& ours,
                      const std::optional<BareTimes>& bare) {
  Record record;
  record.text("kind", "op").text("model", model).text("op", c.op).text("dtype", c.dtype);
  record.count("tokens", static_cast<std::uint64_t>(c.tokens));
  record.text("tensors", ours.in_slots ? "ring slots" : "some over 10 MiB, beside the ring");
  record.spread("compute_ns", ours.compute_ns);
  record.spread("whole_ns", ours.whole_ns);
  record.number("copy_in_ns_median", median_of(ours.copy_in_ns));
  record.number("copy_out_ns_median", median_of(ours.copy_out_ns));
  record.number("queue_ns_median", median_of(ours.queue_ns));
  record.number("server_ns_median", median_of(ours.server_ns));
  record.number("two_under_way_ns", ours.two_under_way_ns);
  if (bare) {
    const double flop = c.product->flop();
    const double bare_ns = median_of(bare->alone_ns);
    const double our_ns = median_of(ours.compute_ns);
    record.spread("bare_ns", bare->alone_ns);
    record.number("bare_in_a_row_ns", bare->in_a_row_ns);
    record.number("flop", flop);
    record.number("tflop_per_s", flop / our_ns * 1e-3);
    record.number("bare_tflop_per_s", flop / bare_ns * 1e-3);
    record.number("of_bare", bare_ns / our_ns);  // the goal: at least 0.95
  }
  return record.json();
}

/// Of cuBLAS: what NVIDIA advises, and what the module gives it.
std::size_t workspace_bytes(int device) {
  constexpr int kHopper = 9;
  cudaDeviceProp properties{};
  must(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  return std::size_t{properties.major >= kHopper ? 32U : 4U} << 20;
}

/// One model's shape in one dtype.
void run_model(const OpsOptions& options, const std::string& config, DType dtype,
               std::vector<std::string>& records) {
  const std::string name = std::filesystem::path(config).stem().string();
  auto source = make_bench_model(config, 1);
  must(source.status(), config);
  const auto not_run = [&](const std::string& what, const Status& status) {
    records.push_back(Record()
                          .text("kind", "not_run")
                          .text("what", fmt::format("{} of {} in {}", what, name, name_of(dtype)))
                          .text("why", status.to_string())
                          .json());
  };
  CudaOptions cuda;
  cuda.device = options.device;
  cuda.dtype = dtype;
  cuda.threads = options.threads;
  cuda.warn = [](const std::string& text) { fmt::print(stderr, "cuda_bench: {}\n", text); };
  auto model = options.module->create(source->get(), cuda);
  if (!model.ok()) return not_run("ops", model.status());
  const Slots requests(kLanes * kInputs);
  const Slots replies(kLanes * kResults);
  const std::array<std::span<std::byte>, 2> segments{requests.all(), replies.all()};
  auto compute = (*model)->make_compute(segments);
  if (!compute.ok()) return not_run("ops", compute.status());
  const ModelDims& dims = (*source)->config().dims;
  std::vector<Case> cases = cases_of(dims, dtype, options.tokens);
  if (dtype == options.dtypes.front()) {  // they are the same beside each of them
    const auto digest = (*model)->prepare_int8(**source, Int8Weights::kW8, {});
    if (!digest.ok()) not_run("int8 ops", digest.status());
    if (digest.ok()) std::ranges::move(int_cases(dims, options.tokens), std::back_inserter(cases));
  }
  for (const Case& c : cases) {
    fmt::print(stderr, "{} {} {} {}\n", name, c.dtype, c.op, c.tokens);
    const auto ours = time_ours(**compute, c, requests, replies, options.calls);
    if (ours.status().code() == StatusCode::kResourceExhausted) {
      not_run(fmt::format("{} {}", c.op, c.tokens), ours.status());
      continue;
    }
    must(ours.status(), c.op);
    std::optional<BareTimes> bare;
    if (c.product) {
      bare = time_bare(*c.product, options.calls, workspace_bytes(options.device));
      if (!bare) {
        not_run(fmt::format("the bare {} {}", c.op, c.tokens),
                {StatusCode::kResourceExhausted, "no room for its operands beside the model"});
      }
    }
    records.push_back(op_record(name, c, *ours, bare));
  }
}

}  // namespace

std::vector<std::string> run_ops(const OpsOptions& options) {
  std::vector<std::string> records;
  for (const std::string& config : options.configs) {
    for (const DType dtype : options.dtypes) run_model(options, config, dtype, records);
  }
  return records;
}

}  // namespace airlock::bench
