#include "tests/hostile/cases.h"

#include <algorithm>

#include "base/check.h"
#include "base/deadline.h"
#include "runtime/local_backend.h"
#include "tests/rpc/rpc_rigs.h"
#include "tests/support/reference_ops.h"

namespace airlock::hostile {
namespace {

/// So that [kMany, hidden] in fp32 is over the ring's limit, and takes the socket.
constexpr std::int64_t kMany = 200;

Bytes copy_of(std::span<const std::byte> bytes) { return {bytes.begin(), bytes.end()}; }
Bytes copy_of(const std::string& text) { return copy_of(std::as_bytes(std::span(text))); }

Tensor input_of(const TensorDesc& desc, std::uint64_t seed, std::int64_t vocab) {
  if (desc.dtype != DType::kI32) return testing::random_tensor(desc, seed);
  Tensor ids(desc);
  std::int32_t next = 0;
  for (std::int32_t& id : ids.as<std::int32_t>())
    id = next = static_cast<std::int32_t>((next + 37) % vocab);
  return ids;
}

}  // namespace

Cases::Cases()
    : model_(testing_rigs::make_cpu_model(weights_, DType::kF32)),
      norms_(read_norms(weights_).value()) {
  const ModelDims& dims = weights_.config().dims;
  const TensorDesc x{DType::kF32, {2, dims.hidden}};
  const TensorDesc many{DType::kF32, {kMany, dims.hidden}};
  const TensorDesc half{DType::kBF16, {3, dims.hidden}};
  const TensorDesc a{DType::kF32, {dims.heads, 4, dims.head_dim}};
  const TensorDesc b{DType::kF32, {dims.kv_heads, dims.head_dim, 5}};
  const TensorDesc bt{DType::kF32, {dims.kv_heads, 5, dims.head_dim}};
  const WeightId q{WeightKind::kQ, 0};
  const WeightId k{WeightKind::kK, 1};
  const WeightId v{WeightKind::kV, 1};
  const WeightId up{WeightKind::kUp, 1};
  add(OpSpec{}, {}, {});
  add_computed(embedding_spec(3, DType::kF32));
  add_computed(embedding_spec(kMany, DType::kF32));  // its result takes the socket
  add_computed(linear_spec({q, k, v}, x, DType::kF32));
  add_computed(linear_spec({q}, many, DType::kBF16));  // its input takes the socket
  add_computed(linear_spec({up, up}, many, DType::kF32));
  add_computed(linear_spec({k}, half, DType::kF16));
  add_computed(matmul_spec(a, b, Transpose::kNone, DType::kF32));
  add_computed(matmul_spec(a, bt, Transpose::kB, DType::kF32));
  add_computed(lm_head_spec(x));
  OpSpec init;
  init.op = Op::kInit;
  const auto text_desc = [](const std::string& text) {
    return TensorDesc{DType::kU8, Shape{static_cast<std::int64_t>(text.size())}};
  };
  add(init, {text_desc(config_json_), norms_.desc()},
      {copy_of(config_json_), copy_of(norms_.view().bytes())});
  OpSpec stats;
  stats.op = Op::kStats;
  add(stats, {text_desc(stats_json_)}, {copy_of(stats_json_)});
}

void Cases::add(const OpSpec& spec, std::vector<TensorDesc> results, std::vector<Bytes> bytes) {
  Case made;
  made.spec = spec;
  made.reply.op = spec.op;
  made.reply.results = std::move(results);
  made.results = std::move(bytes);
  all_.push_back(std::move(made));
}

void Cases::add_computed(const OpSpec& spec) {
  LocalBackend backend(model_->make_compute());
  const auto pending = backend.prepare(spec, Deadline::after(std::chrono::minutes(1))).value();
  std::vector<Bytes> inputs;
  for (std::size_t i = 0; i < spec.inputs.size(); ++i) {
    const Tensor input = input_of(spec.inputs[i], all_.size() + i, weights_.config().dims.vocab);
    std::ranges::copy(input.view().bytes(), pending->input(i).bytes().begin());
    inputs.push_back(copy_of(input.view().bytes()));
  }
  CHECK(pending->submit().ok() && pending->wait().ok());
  const auto descs = pending->result_descs();
  std::vector<Bytes> results;
  for (std::size_t i = 0; i < descs.size(); ++i)
    results.push_back(copy_of(pending->result(i).bytes()));
  add(spec, {descs.begin(), descs.end()}, std::move(results));
  all_.back().inputs = std::move(inputs);
}

const Case* Cases::find(const OpSpec& spec) const {
  const auto found = std::ranges::find(all_, spec, &Case::spec);
  return found == all_.end() ? nullptr : &*found;
}

}  // namespace airlock::hostile
