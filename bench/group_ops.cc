// Two ranks of one thread, by columns, against one process of two threads: linears of
// LLaMA-3.2-1B's shape; and the relay alone, an op that is not computed, at once and after a rest.
//   mpirun -np 2 [--mca btl self,tcp] group_ops [ROUNDS]
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/deadline.h"
#include "base/sink.h"
#include "bench/llama_1b.h"
#include "bench/numbers.h"
#include "bench/record.h"
#include "gpu_server/group/group_model.h"
#include "gpu_server/group/launch.h"
#include "gpu_server/group/worker.h"
#include "gpu_server/mpi_module.h"
#include "runtime/cpu/cpu_model.h"

namespace airlock {
namespace {

constexpr std::chrono::seconds kPatience{60};
constexpr std::chrono::milliseconds kRest{500};
constexpr PlacementKind kKind = PlacementKind::kColumns;

/// Computes nothing where fp16 is asked for: what is left is the relay.
class Relayed : public Compute {
 public:
  explicit Relayed(std::unique_ptr<Compute> inner) : inner_(std::move(inner)) {}
  const BackendInfo& info() const override { return inner_->info(); }
  Result<std::unique_ptr<Computation>> prepare(const OpSpec& spec, OpMemory memory,
                                               const OpLife& life) override {
    if (spec.result_dtype == DType::kF16)
      return std::unique_ptr<Computation>(std::make_unique<Nothing>());
    return inner_->prepare(spec, std::move(memory), life);
  }

 private:
  class Nothing : public Computation {
   public:
    Status submit() override { return {}; }
    bool done() override { return true; }
    Status wait() override { return {}; }
    OpTimes times() const override { return {}; }
  };
  const std::unique_ptr<Compute> inner_;
};

class RelayedModel : public ComputeModel {
 public:
  explicit RelayedModel(std::shared_ptr<ComputeModel> inner) : inner_(std::move(inner)) {}
  const BackendInfo& info() const override { return inner_->info(); }
  Result<std::unique_ptr<Compute>> make_compute(
      std::span<const std::span<std::byte>> segments) override {
    ASSIGN_OR_RETURN(auto inner, inner_->make_compute(segments));
    return std::unique_ptr<Compute>(std::make_unique<Relayed>(std::move(inner)));
  }
  Result<std::string> prepare_int8(const ModelSource& model, Int8Weights weights,
                                   const Int8Progress& progress) override {
    return inner_->prepare_int8(model, weights, progress);
  }
  Result<std::vector<Int8Line>> prepare_int8_share(const ModelSource& model, Int8Weights weights,
                                                   const Int8Progress& progress) override {
    return inner_->prepare_int8_share(model, weights, progress);
  }
  Status health() const override { return inner_->health(); }

 private:
  const std::shared_ptr<ComputeModel> inner_;
};

std::shared_ptr<ComputeModel> load(const ModelSource& source, std::size_t threads,
                                   const ModelShare* share) {
  return CpuModel::create(
             source, {.dtype = DType::kBF16, .threads = threads, .progress = {}, .share = share})
      .value();
}

Status work(const ModelSource& source, const MpiModule& module) {
  const auto link = module.open().value();
  const Placement placement = Placement::make(kKind, source.config(), 2, false).value();
  const ModelShare& share = placement.share(link->rank());
  const auto load_share = [&]() -> Result<LoadedShare> {
    LoadedShare loaded;
    loaded.model = std::make_shared<RelayedModel>(load(source, 1, &share));
    return loaded;
  };
  const Status status =
      run_worker(*link, {.hello = {.version = "bench", .identity = {}, .host = link->host()},
                         .dims = source.config().dims,
                         .share = share,
                         .load = load_share});
  if (status.ok()) link->finish();
  return status;
}

double ms_of(Compute& compute, const OpSpec& spec, const OpMemory& memory) {
  const std::uint64_t start = now_ns();
  auto op = compute.prepare(spec, memory, Deadline::after(kPatience)).value();
  CHECK(op->submit().ok() && op->wait().ok());
  return static_cast<double>(now_ns() - start) * 1e-6;
}

double relay_ms(GroupLeader& leader, Tensor& input, std::vector<Tensor>& results) {
  auto op = std::make_shared<RemoteOp>();
  op->rank = 1;
  op->spec = linear_spec(weights_of(Linear::kGateUp, 0), input.desc(), DType::kF16);
  op->deadline = Deadline::after(kPatience);
  op->inputs.push_back(ByteRows::dense(input.mutable_view().data, input.desc().bytes()));
  for (Tensor& result : results) {
    op->result_descs.push_back(result.desc());
    op->results.push_back(tensor_rows(result.mutable_view().data, result.desc()));
  }
  const std::uint64_t start = now_ns();
  leader.submit(op);
  CHECK(op->wait(op->deadline) && op->status().ok());
  return static_cast<double>(now_ns() - start) * 1e-6;
}

std::string range(const std::vector<double>& values) {
  return fmt::format("{:.2f} ({:.2f} to {:.2f})", bench::median_of(values),
                     *std::ranges::min_element(values), *std::ranges::max_element(values));
}

Status lead(const ModelSource& source, const MpiModule& module, std::size_t rounds) {
  ASSIGN_OR_RETURN(const auto leader,
                   GroupLeader::start({.open = module.open, .timing = {}, .leave = {}},
                                      Deadline::after(kPatience)));
  const Placement placement = Placement::make(kKind, source.config(), 2, false).value();
  RETURN_IF_ERROR(leader->await_hellos(Deadline::after(kPatience)).status());
  RETURN_IF_ERROR(leader->begin_loading());
  const auto own = load(source, 1, &placement.share(0));
  const auto whole = load(source, 2, nullptr);
  RETURN_IF_ERROR(leader->await_loaded());
  BackendInfo info = whole->info();
  const auto group = make_group_model({*leader, placement, info, own});
  const auto alone = whole->make_compute({}).value();
  const auto together = group->make_compute({}).value();
  fmt::print(
      "{}, {} rounds\n\n| op | tokens | one process, 2 threads ms | 2 ranks ms | ratio |\n"
      "| --- | ---: | ---: | ---: | ---: |\n",
      leader->what(), rounds);
  for (const std::int64_t tokens : {1, 128, 1024}) {
    for (const WeightKind kind : {WeightKind::kQ, WeightKind::kGate, WeightKind::kDown}) {
      const Shape shape = weight_shape(info.dims, kind);
      const Tensor x({DType::kBF16, Shape{tokens, shape[1]}});
      Tensor y({DType::kBF16, Shape{tokens, shape[0]}});
      const OpSpec spec = linear_spec({{kind, 0}}, x.desc(), DType::kBF16);
      const OpMemory memory{{x.view()}, {y.mutable_view()}};
      std::vector<double> one;
      std::vector<double> two;
      for (std::size_t round = 0; round <= rounds; ++round) {
        const double a = ms_of(*alone, spec, memory);
        (void)ms_of(*together, spec, memory);
        const double b = ms_of(*together, spec, memory);
        if (round == 0) continue;
        one.push_back(a);
        two.push_back(b);
      }
      fmt::print("| {} | {} | {} | {} | {:.2f} |\n", name_of(kind), tokens, range(one), range(two),
                 bench::median_of(two) / bench::median_of(one));
    }
  }
  Tensor input({DType::kBF16, Shape{1024, 2048}});
  std::vector<Tensor> results;
  for (int i = 0; i < 2; ++i) results.emplace_back(TensorDesc{DType::kF16, Shape{1024, 4096}});
  std::vector<double> relay;
  std::vector<double> rested;
  for (std::size_t round = 0; round <= 4 * rounds; ++round) {
    const double ms = relay_ms(*leader, input, results);
    if (round > 0) relay.push_back(ms);
  }
  for (std::size_t round = 0; round < rounds; ++round) {
    std::this_thread::sleep_for(kRest);
    rested.push_back(relay_ms(*leader, input, results));
  }
  fmt::print(
      "\nrelay alone, {} MiB there and {} MiB back: {} ms; after {} ms without an op: {} ms\n",
      input.desc().bytes() >> 20, 2 * results[0].desc().bytes() >> 20, range(relay), kRest.count(),
      range(rested));
  return leader->stop(kPatience) ? Status() : leader->health();
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  using namespace airlock;
  const auto numbers =
      bench::numbers_of(argc, argv, "mpirun -np 2 group_ops [ROUNDS]", {{10, 1000}});
  const auto launch = find_launch();
  if (!numbers || !launch || launch->ranks != 2) {
    std::fprintf(stderr, "usage: mpirun -np 2 group_ops [ROUNDS]\n");
    return 2;
  }
  const bench::Llama1B source(1);
  const MpiModule* module = load_mpi_module({}).value();
  const Status status = launch->rank == 0
                            ? lead(source, *module, static_cast<std::size_t>((*numbers)[0]))
                            : work(source, *module);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  return exit_code(status.code());
}
