#include "gpu_server/group_server.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/cpu_count.h"
#include "base/log.h"
#include "base/sink.h"
#include "base/thread.h"
#include "base/version.h"
#include "gpu_server/group/group_model.h"
#include "gpu_server/group/int8_lines.h"
#include "gpu_server/group/traffic.h"
#include "gpu_server/group/worker.h"
#include "gpu_server/mpi_module.h"
#include "gpu_server/op_limit.h"

namespace airlock {

namespace {

constexpr std::chrono::seconds kFinishPatience{10};

/// A launcher of another MPI starts processes that each believe to be alone.
Status check_ranks(std::size_t rank, std::size_t ranks, std::size_t launched_rank,
                   std::size_t launched_ranks) {
  if (rank == launched_rank && ranks == launched_ranks) return {};
  return {StatusCode::kDevice,
          "the launcher calls this rank {} of {}, MPI rank {} of {}: the launcher must be of the "
          "MPI that airlock_mpi.so was built with",
          launched_rank,
          launched_ranks,
          rank,
          ranks};
}

/// What must be the same on all ranks, or they would not compute one model.
Result<std::string> identity_of(const ServerOptions& options, const ModelSource& source,
                                std::size_t ranks) {
  ASSIGN_OR_RETURN(const std::string model, source.digest_identity());
  return fmt::format("{} dtype {} placement {} of {}{}{} interface {}", model,
                     name_of(options.dtype.value_or(source.stored_dtype())),
                     name_of(options.placement), ranks, options.door_only ? " behind a door" : "",
                     options.tf32 ? " in TF32" : "", kModuleAbi);
}

RankHello hello_of(const ServerOptions& options, std::string identity, std::string host) {
  return {.version = kVersion,
          .identity = std::move(identity),
          .host = std::move(host),
          .pid = static_cast<std::uint64_t>(::getpid()),
          .threads = options.threads,
          .cpus = usable_cpu_count()};
}

/// A launcher that binds each rank to a CPU is seldom what a user with threads wants.
void tell_binding(std::size_t rank, const RankHello& hello) {
  if (hello.threads <= hello.cpus) return;
  log_warning(
      fmt::format("rank {} on {} has {} threads and may run on {} CPUs: start mpirun with "
                  "--bind-to none, or with --map-by slot:PE={}",
                  rank, hello.host, hello.threads, hello.cpus, hello.threads));
}

Status check_hello(std::size_t rank, const RankHello& hello, const std::string& identity) {
  if (hello.version != kVersion) {
    return {StatusCode::kVersionMismatch,
            "rank {} on {} is of release {}, rank 0 of {}",
            rank,
            hello.host,
            hello.version,
            kVersion};
  }
  if (hello.identity == identity) return {};
  return {StatusCode::kMismatch,
          "rank {} on {} was told to serve \"{}\", rank 0 \"{}\"",
          rank,
          hello.host,
          hello.identity,
          identity};
}

/// Adds the lines of a text, of which each ends with a newline.
void add_lines(std::string_view text, std::vector<std::string>& lines) {
  for (std::size_t end = 0; (end = text.find('\n')) != std::string_view::npos;
       text.remove_prefix(end + 1))
    lines.emplace_back(text.substr(0, end));
}

std::uint64_t bytes_of(const Placement& placement, std::size_t rank, DType dtype) {
  return placement.elements(rank) * dtype_bytes(dtype);
}

/// Once for all, since more ranks than a model has parts is no error.
void tell_idle(const Placement& placement) {
  std::vector<std::size_t> idle;
  for (std::size_t rank = 1; rank < placement.ranks(); ++rank) {
    if (placement.share(rank).empty()) idle.push_back(rank);
  }
  if (idle.empty()) return;
  log_warning(fmt::format("the model has too few {} for {} ranks: rank {} holds nothing and idles",
                          name_of(placement.kind()), placement.ranks(), fmt::join(idle, ", ")));
}

/// Which way what is sent to the other machines goes, and how fast: MPI takes another way without a
/// word where the one that was asked for is not to be had.
Status tell_ways(GroupLeader& leader, const std::vector<RankHello>& hellos) {
  constexpr std::size_t kBytes = std::size_t{8} << 20;
  const std::string asked = asked_for_rdma();
  for (std::size_t i = 0; i < hellos.size(); ++i) {
    const std::size_t rank = i + 1;
    if (hellos[i].host == leader.host()) continue;
    // The first pays for the connections.
    RETURN_IF_ERROR(leader.echo(rank, kBytes / 8).status());
    const Traffic before = read_traffic();
    ASSIGN_OR_RETURN(const std::chrono::nanoseconds took, leader.echo(rank, kBytes));
    const Way way = way_of(kBytes, before, read_traffic());
    const double seconds = std::chrono::duration<double>(took).count();
    log_info(fmt::format(
        "rank {} on {}: {} MiB there and back in {:.1f} ms, {:.2f} GB/s each way, by {}", rank,
        hellos[i].host, kBytes >> 20, seconds * 1e3, 2e-9 * static_cast<double>(kBytes) / seconds,
        way.text));
    if (asked.empty() || way.is_rdma) continue;
    log_warning(fmt::format("RDMA was asked for ({}) and rank {} on {} is reached by {} without it",
                            asked, rank, hellos[i].host, way.text));
  }
  return {};
}

/// Of the whole model, from what the ranks have.
Result<BackendInfo> describe(const ModelSource& source, const Placement& placement,
                             const ComputeModel* own, const std::vector<RankState>& states) {
  BackendInfo info;
  info.dims = source.config().dims;
  info.stored_dtype = source.stored_dtype();
  info.threads = 0;
  std::set<std::string> devices;
  std::optional<DType> dtype;
  const auto add = [&](std::size_t rank, const std::string& device, DType its, std::size_t threads,
                       const std::string& products) -> Status {
    devices.insert(device);
    info.threads += threads;
    if (info.fp64_products.empty()) info.fp64_products = products;
    if (dtype.value_or(its) == its) {
      dtype = its;
      return {};
    }
    return {StatusCode::kMismatch, "rank {} computes in {}, others in {}", rank, name_of(its),
            name_of(*dtype)};
  };
  if (own != nullptr) {
    const BackendInfo& its = own->info();
    RETURN_IF_ERROR(add(0, its.device, its.dtype, its.threads, its.fp64_products));
  }
  for (std::size_t rank = 1; rank < placement.ranks(); ++rank) {
    if (placement.share(rank).empty()) continue;
    const RankLoaded& its = *states[rank - 1].loaded;
    RETURN_IF_ERROR(add(rank, its.device, its.dtype, its.threads, its.fp64_products));
  }
  info.dtype = dtype.value_or(DType::kF32);
  info.threads = std::min(info.threads, limits::kMaxThreads);
  info.device = fmt::format("{} ranks by {}: {}", placement.ranks(), name_of(placement.kind()),
                            fmt::join(devices, ", "))
                    .substr(0, limits::kMaxDeviceNameBytes);
  return info;
}

/// The other ranks are waited for, but not for ever.
[[noreturn]] void end_worker(GroupLink& link, const Status& status) {
  if (!status.ok()) {
    log_error(status.message());
    exit_at_once(exit_code(status.code()));
  }
  const auto watch = start_thread("the end", [] {
    std::this_thread::sleep_for(kFinishPatience);
    exit_at_once(exit_code(StatusCode::kUnavailable));
  });
  if (watch.ok()) link.finish();
  exit_at_once(0);
}

}  // namespace

Result<std::unique_ptr<GroupLeader>> start_group(
    const ServerOptions& options, std::function<std::optional<int>(const Status&)> lost) {
  ASSIGN_OR_RETURN(const MpiModule* module, load_mpi_module(options.mpi_module));
  // As a signal that comes from outside: what reads those ends the server in order.
  GroupLeader::Ground ground{.open = module->open,
                             .timing = {},
                             .leave = [] { ::kill(::getpid(), SIGTERM); },
                             .lost = std::move(lost)};
  ASSIGN_OR_RETURN(auto leader,
                   GroupLeader::start(std::move(ground), Deadline::after(GroupTiming().meeting)));
  RETURN_IF_ERROR(check_ranks(0, leader->ranks(), 0, options.ranks));
  log_info(fmt::format("rank 0 of {} on {}, {}", leader->ranks(), leader->host(), leader->what()));
  return leader;
}

Result<ServedModel> load_group_model(const ServerOptions& options, const DeviceChoice& choice,
                                     GroupLeader& leader) {
  ASSIGN_OR_RETURN(std::shared_ptr<const ModelSource> source, open_source(options));
  ASSIGN_OR_RETURN(const std::string identity, identity_of(options, *source, leader.ranks()));
  ASSIGN_OR_RETURN(Placement placement, Placement::make(options.placement, source->config(),
                                                        leader.ranks(), options.door_only));
  if (!options.door_only) tell_binding(0, hello_of(options, {}, leader.host()));
  ASSIGN_OR_RETURN(const std::vector<RankHello> hellos,
                   leader.await_hellos(Deadline::after(GroupTiming().meeting)));
  for (std::size_t i = 0; i < hellos.size(); ++i) {
    RETURN_IF_ERROR(check_hello(i + 1, hellos[i], identity));
    tell_binding(i + 1, hellos[i]);
  }
  tell_idle(placement);
  RETURN_IF_ERROR(tell_ways(leader, hellos));
  RETURN_IF_ERROR(leader.begin_loading());
  LoadedCompute own;
  if (!placement.share(0).empty()) {
    ASSIGN_OR_RETURN(own, load_compute(options, choice, source.get(), &placement.share(0)));
  }
  ASSIGN_OR_RETURN(std::vector<std::string> lines, source->digest_lines(placement.hashed_by(0)));
  ASSIGN_OR_RETURN(Tensor norms, read_norms(*source));
  RETURN_IF_ERROR(leader.await_loaded());
  const std::vector<RankState> states = leader.states();
  for (const RankState& state : states) add_lines(state.digest_lines, lines);
  ASSIGN_OR_RETURN(BackendInfo info, describe(*source, placement, own.model.get(), states));
  ASSIGN_OR_RETURN(info.digest, source->join_digest(lines));
  ServedModel served{config_to_json(source->config()), std::move(norms), info.digest,
                     source->stored_dtype(),           nullptr,          std::move(own.device)};
  served.max_op_flop = options.max_op_flop.value_or(default_max_op_flop(source->config()));
  served.source = std::move(source);
  served.compute = make_group_model({leader, std::move(placement), std::move(info), own.model});
  if (options.int8 == Int8Making::kPreload)
    RETURN_IF_ERROR(preload_int8(*served.source, *served.compute));
  return served;
}

Result<GroupWorker> open_group_worker(const ServerOptions& options, const GroupLaunch& launch) {
  GroupWorker worker;
  ASSIGN_OR_RETURN(const MpiModule* module, load_mpi_module(options.mpi_module));
  ASSIGN_OR_RETURN(worker.link, module->open());
  RETURN_IF_ERROR(
      check_ranks(worker.link->rank(), worker.link->ranks(), launch.rank, launch.ranks));
  ASSIGN_OR_RETURN(worker.source, open_source(options));
  return worker;
}

Status run_group_worker(const ServerOptions& options, const GroupLaunch& launch,
                        const GroupWorker& worker, int signal_fd) {
  const std::shared_ptr<const ModelSource>& source = worker.source;
  const std::unique_ptr<GroupLink>& link = worker.link;
  ASSIGN_OR_RETURN(const Placement placement, Placement::make(options.placement, source->config(),
                                                              link->ranks(), options.door_only));
  ASSIGN_OR_RETURN(std::string identity, identity_of(options, *source, link->ranks()));
  const std::size_t rank = link->rank();
  const ModelShare& share = placement.share(rank);
  const auto load = [&, &from = *source]() -> Result<LoadedShare> {
    LoadedShare loaded;
    if (!share.empty()) {
      ASSIGN_OR_RETURN(const DeviceChoice choice, choose_device(options, launch.local_rank));
      ASSIGN_OR_RETURN(LoadedCompute compute, load_compute(options, choice, &from, &share));
      loaded.model = std::move(compute.model);
      loaded.bytes = bytes_of(placement, rank, loaded.model->info().dtype);
      loaded.make_int8 = [&, model = loaded.model](Int8Weights weights) -> Result<std::string> {
        ASSIGN_OR_RETURN(const auto lines, model->prepare_int8_share(from, weights, {}));
        return int8_text(lines);
      };
    }
    ASSIGN_OR_RETURN(const auto lines, from.digest_lines(placement.hashed_by(rank)));
    for (const std::string& line : lines) loaded.digest_lines += line + "\n";
    return loaded;
  };
  const WorkerGround ground{
      .hello = hello_of(options, std::move(identity), link->host()),
      .dims = source->config().dims,
      .share = share,
      .load = load,
      .signal_fd = signal_fd,
      .before_end = [&end = *link](const Status& status) { end_worker(end, status); }};
  return run_worker(*link, ground);
}

}  // namespace airlock
