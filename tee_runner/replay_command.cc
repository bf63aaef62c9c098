#include "tee_runner/replay_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/thread.h"
#include "runtime/program/program.h"
#include "runtime/replay/replay.h"
#include "runtime/replay/report.h"
#include "runtime/rpc/client.h"
#include "runtime/trace/trace.h"
#include "tee_runner/result.h"

namespace airlock {
namespace {

/// What all clients read.
struct Material {
  std::unique_ptr<ReplayTrace> trace;
  std::unique_ptr<SafetensorsFile> payload;  // null: there is none
  ReplayInputs inputs;
};

/// One session and its thread. What its thread writes is read after the join.
struct Client {
  explicit Client(const TraceHeader& header) : tally(header) {}
  std::unique_ptr<RecordSource> records;
  std::unique_ptr<ClientSession> session;
  std::optional<ReportedSession> reported;
  ReplayTally tally;
  Status status;
  std::thread thread;
};
using Clients = std::vector<std::unique_ptr<Client>>;

Status with_client(const Status& status, std::size_t index, std::size_t count) {
  return count == 1 ? status
                    : status.with_context(fmt::format("client {} of {}", index + 1, count));
}

Result<Material> read_material(const ReplayOptions& options) {
  Material material;
  ASSIGN_OR_RETURN(material.trace, ReplayTrace::open(options.file));
  const TraceHeader& header = material.trace->header();
  RETURN_IF_ERROR(check_can_verify(header, options.verify));
  if (header.dropped > 0) {
    log_warning(fmt::format("{} lacks {} ops that the disk was too slow for", options.file,
                            header.dropped));
  }
  if (options.speed == ReplaySpeed::kRecorded && header.source == TraceSource::kSynthesised) {
    log_warning("--speed recorded: a synthesised trace has no times; it is replayed at max");
  }
  const std::string payload = payload_path(options.file, header);
  std::error_code ignored;
  if (!payload.empty() && options.verify == ReplayVerify::kNone &&
      !std::filesystem::exists(payload, ignored)) {
    log_warning(fmt::format("the payload {} is not there: inputs are made by --seed", payload));
  } else if (!payload.empty()) {
    ASSIGN_OR_RETURN(material.payload, SafetensorsFile::open(payload));
  }
  material.inputs = material.payload != nullptr ? recorded_inputs(*material.payload)
                                                : seeded_inputs(options.seed, header.dims.vocab);
  return material;
}

Status connect_client(Client& client, const ReplayOptions& options, const Material& material,
                      StatsReporter& reporter) {
  ASSIGN_OR_RETURN(client.records, material.trace->make_source());
  ConnectOptions connect = options;
  connect.int8_weights = material.trace->int8_weights();
  // Nothing is hidden by replaying: any mode of integer ops will do.
  if (connect.int8_weights != Int8Weights::kNone) connect.privacy = Privacy::kVerify;
  ASSIGN_OR_RETURN(client.session, ClientSession::connect(connect));
  client.reported.emplace(reporter, *client.session);
  return {};
}

/// All of them, or none replays: a result of fewer clients would answer another question.
Result<Clients> connect_clients(const ReplayOptions& options, const Material& material,
                                StatsReporter& reporter) {
  Clients clients;
  for (std::size_t i = 0; i < options.clients; ++i) {
    clients.push_back(std::make_unique<Client>(material.trace->header()));
    RETURN_IF_ERROR(with_client(connect_client(*clients.back(), options, material, reporter), i,
                                options.clients));
    if (i > 0) continue;  // the first speaks for all: it is one server
    RETURN_IF_ERROR(check_replay_model(material.trace->header(),
                                       clients.back()->session->backend().info(), options.verify));
  }
  return clients;
}

/// What does not change while the clients replay.
ReplayResult describe(const ReplayOptions& options, const Material& material,
                      ClientSession& session) {
  ReplayResult result;
  result.settings = options;
  result.trace = material.trace->header();
  result.server = session.backend().info();
  result.recorded_inputs = material.payload != nullptr;
  const PathPolicy& policy = session.policy();
  const std::optional<PathPolicy> recorded = recorded_policy(result.trace);
  result.same_paths = recorded && recorded->has_ring == policy.has_ring &&
                      (!policy.has_ring || (recorded->limit_bytes == policy.limit_bytes &&
                                            recorded->slot_count == policy.slot_count));
  if (recorded && !result.same_paths) {
    log_warning(
        fmt::format("the session's ring has {} slots of {} bytes, the recorded one {} of {}: "
                    "tensors may take other paths",
                    policy.slot_count, policy.limit_bytes, result.trace.ring_slots,
                    result.trace.path_limit_bytes));
  }
  return result;
}

void replay_in_thread(Client& client, const ReplayOptions& options, const Material& material,
                      const ReplayVerifier* verifier) {
  ReplayClock clock;
  ReplaySettings settings = options;
  if (material.trace->header().source == TraceSource::kSynthesised) {
    settings.speed = ReplaySpeed::kMax;  // it has no times
  }
  Replay replay(
      {client.session->backend(), *client.records, material.inputs, verifier, clock, client.tally,
       [&session = *client.session] { return session.check(); }, options.op_timeout},
      settings);
  client.status = replay.run();
  client.reported->say_goodbye();  // its place at the server is another's to have
}

/// One thread each; they begin together, or not at all where there are no threads for all of them.
Status replay_all(const Clients& clients, const std::function<void(Client&)>& replay) {
  std::promise<bool> all_there;
  const std::shared_future<bool> begin = all_there.get_future().share();
  Status started;
  for (std::size_t i = 0; i < clients.size() && started.ok(); ++i) {
    auto thread = start_thread("a client", [&client = *clients[i], &replay, begin] {
      Status failed = without_exceptions([&]() -> Status {
        if (begin.get()) replay(client);
        return {};
      });
      if (!failed.ok()) client.status = std::move(failed);
    });
    if (thread.ok()) {
      clients[i]->thread = std::move(thread).value();
    } else {
      started = with_client(thread.status(), i, clients.size());
    }
  }
  all_there.set_value(started.ok());
  for (const auto& client : clients) {
    if (client->thread.joinable()) client->thread.join();
  }
  return started;
}

/// What --verify says of outputs that were all as recorded, where no client failed.
Status judge_verified(const ReplayResult& result, const ReplayCounts& sum) {
  if (result.settings.verify == ReplayVerify::kNone) return {};
  const std::uint64_t replays = result.settings.clients * result.settings.repeat;
  return check_verified_all(result.trace, result.cut, {sum.ops() / replays, sum.tensors_checked});
}

Status judge(const Clients& clients, const ReplayResult& result) {
  const ReplayCounts sum = result.sum();
  Status status;
  for (std::size_t i = 0; i < clients.size(); ++i)
    status = first_failure(std::move(status), with_client(clients[i]->status, i, clients.size()));
  if (sum.tensors_differing == 0) return status.ok() ? judge_verified(result, sum) : status;
  return first_failure(
      std::move(status),
      {StatusCode::kMismatch, "{} of {} compared tensors are not as recorded; the first: {}",
       sum.tensors_differing, sum.tensors_checked, sum.first_difference});
}

void read_tallies(const Clients& clients, ReplayResult& result) {
  result.clients.clear();
  for (const auto& client : clients) result.clients.push_back({client->tally.counts(), {}});
}

}  // namespace

Status run(const ReplayOptions& options, StatsReporter& reporter) {
  reporter.add_config("replay", options.file);
  reporter.add_config("speed", name_of(options.speed));
  reporter.add_config("repeat", std::to_string(options.repeat));
  reporter.add_config("clients", std::to_string(options.clients));
  reporter.add_config("inflight", std::to_string(options.inflight));
  reporter.add_config("verify", name_of(options.verify));
  ASSIGN_OR_RETURN(const Material material, read_material(options));
  ASSIGN_OR_RETURN(const Clients clients, connect_clients(options, material, reporter));
  ReplayResult result = describe(options, material, *clients[0]->session);
  reporter.set_device(result.server.device);
  reporter.add_config("dtype", name_of(result.server.dtype));
  if (clients.size() == 1) {  // of several sessions, the sums belong to none
    reporter.add_config("epoch", fmt::format("{:016x}", clients[0]->session->epoch()));
  }
  const ReplayVerifier verifier(
      options.verify, material.payload.get(),
      std::max(tolerance_of(result.trace.wire), tolerance_of(result.server.dtype)));
  reporter.set_last_words(
      [&clients, form = options.output, partial = result](const SideReport& report) mutable {
        read_tallies(clients, partial);
        partial.transport = report.transport;
        if (const Status printed = print(format_replay(partial, form)); !printed.ok()) {
          log_error(printed.message());
        }
      });
  const Status started = replay_all(clients, [&](Client& client) {
    replay_in_thread(client, options, material,
                     options.verify == ReplayVerify::kNone ? nullptr : &verifier);
  });
  reporter.set_last_words(nullptr);
  RETURN_IF_ERROR(started);

  read_tallies(clients, result);
  result.complete = true;
  for (std::size_t i = 0; i < clients.size(); ++i) {
    result.clients[i].error = clients[i]->status.message();
    result.complete = result.complete && clients[i]->status.ok();
    if (result.cut.empty()) result.cut = clients[i]->records->cut();
  }
  if (!result.cut.empty()) log_warning(result.cut);
  result.transport = reporter.report().transport;
  const Status printed = print(format_replay(result, options.output));
  return first_failure(judge(clients, result), printed);
}

}  // namespace airlock
