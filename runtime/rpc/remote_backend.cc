#include "runtime/rpc/remote_backend.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

#include "proto/limits.h"
#include "proto/message.h"

namespace airlock {

namespace {

// One slice of a wait in which replies are pumped while a request cannot be handed over.
constexpr std::chrono::milliseconds kPumpSlice{2};

// One request, until its Pending is destroyed and its reply has come.
struct Call {
  enum class State { kPrepared, kSubmitted, kReplied, kFailed };
  State state = State::kPrepared;
  // Its Pending is gone.
  bool abandoned = false;
  RequestHeader request;
  // What the reply must carry. The server sizes the one result of a stats op, up to what stands
  // here.
  std::vector<TensorDesc> results;
  Deadline deadline = Deadline::now();
  // Of the operands until the reply has come, of the results until nobody reads them any more: the
  // server uses them from the request to its reply, whatever became of this op meanwhile.
  std::vector<PoolBlock> input_blocks;
  std::vector<PoolBlock> result_blocks;
  // Of the caller's own places, instead: has them until the reply has come.
  std::shared_ptr<const void> keeps;
  std::unique_ptr<Message> message;
  std::unique_ptr<ReceivedMessage> reply;
  Status failure;
  std::uint64_t submit_ns = 0;
  OpTimes times;
  std::size_t slots_in_use = 0;
  Path slowest = kPaths.front();  // that the request or its reply used
};

template <typename... Args>
Status refuse(fmt::format_string<Args...> format, Args&&... args) {
  return {StatusCode::kProtocolError, format, std::forward<Args>(args)...};
}

// Takes places for those tensors that the plan gives to the pool, as far as there is room.
Status take_places(PoolLease* pool, PoolUse use, MessagePlan& plan, std::vector<PoolBlock>& blocks,
                   std::vector<PoolPlace>& places) {
  const std::size_t first = places.size();
  for (const MessagePlan::Tensor& tensor : plan.tensors()) {
    PoolPlace& place = places.emplace_back();
    if (tensor.path != Path::kPool || pool == nullptr) continue;
    if (auto block = pool->take(use, tensor.bytes)) {
      place = block->place();
      blocks.push_back(std::move(*block));
    }
  }
  return place_in_pool(plan, std::span(places).subspan(first));
}

// What an error of the server's is to us.
StatusCode code_of(const ResponseHeader& response) {
  // That something differs from what it should be is ours to say, and that we gave up is, too.
  if (response.code == StatusCode::kMismatch && is_computed(response.op))
    return StatusCode::kProtocolError;
  return response.code == StatusCode::kCancelled ? StatusCode::kUnavailable : response.code;
}

// How the tensors behind `header` travel, which has to be what was asked for.
Result<MessagePlan> accept_reply(Call& call, const ResponseHeader& header,
                                 const PathPolicy& policy) {
  const Op op = call.request.spec.op;
  if (header.request_id != call.request.request_id) {
    return refuse("a reply to request {} came, expected one to {}", header.request_id,
                  call.request.request_id);
  }
  if (header.op != op)
    return refuse("a reply to op {} came, expected {}", name_of(header.op), name_of(op));
  // The codec has refused results beside an error.
  if (header.code != StatusCode::kOk) return plan_in_pool(policy, {}, {});
  if (header.results.size() != call.results.size()) {
    return refuse("a reply to {} has {} results, expected {}", name_of(op), header.results.size(),
                  call.results.size());
  }
  if (op == Op::kStats) {
    const std::size_t bytes = header.results[0].bytes();
    const std::size_t limit = call.results[0].bytes();
    if (bytes > limit) return refuse("a reply of {} bytes, at most {} are taken", bytes, limit);
    call.results[0].shape = Shape{static_cast<std::int64_t>(bytes)};
  }
  for (std::size_t i = 0; i < call.results.size(); ++i) {
    const TensorDesc& came = header.results[i];
    const TensorDesc& expected = call.results[i];
    if (came == expected) continue;
    return refuse("result {} of {} is {} {}, expected {} {}", i, name_of(op), name_of(came.dtype),
                  came.shape.to_string(), name_of(expected.dtype), expected.shape.to_string());
  }
  const std::span<const PoolPlace> places = call.request.places;
  return plan_in_pool(policy, sizes_of(call.results),
                      places.empty() ? places : places.last(call.results.size()));
}

}  // namespace

// The requests under way on one channel, oldest first. Replies come in the order of the requests.
class RequestQueue {
 public:
  RequestQueue(Channel& channel, OpStatsTable& op_stats, std::function<std::string()> peer_state,
               PoolLease* pool)
      : channel_(channel), op_stats_(op_stats), peer_state_(std::move(peer_state)), pool_(pool) {}

  // `start_ns`: when the caller began to ask.
  Result<std::shared_ptr<Call>> prepare(const OpSpec& spec, std::vector<TensorDesc> results,
                                        Deadline deadline, std::uint64_t start_ns) {
    auto call = std::make_shared<Call>();
    call->request.spec = spec;
    call->results = std::move(results);
    call->deadline = deadline;
    ASSIGN_OR_RETURN(const MessagePlan plan, plan_call(*call));
    return claim(std::move(call), plan, start_ns);
  }

  // With places that the caller has chosen.
  Result<std::shared_ptr<Call>> prepare_in_place(const OpSpec& spec,
                                                 std::vector<TensorDesc> results,
                                                 std::vector<PoolPlace> places,
                                                 std::shared_ptr<const void> keeps,
                                                 Deadline deadline, std::uint64_t start_ns) {
    auto call = std::make_shared<Call>();
    call->request.spec = spec;
    call->results = std::move(results);
    call->deadline = deadline;
    call->keeps = std::move(keeps);
    ASSIGN_OR_RETURN(const MessagePlan plan, plan_in_place(*call, std::move(places)));
    return claim(std::move(call), plan, start_ns);
  }

  Result<std::shared_ptr<Call>> claim(std::shared_ptr<Call> call, const MessagePlan& plan,
                                      std::uint64_t start_ns) {
    call->times.tee_ns = now_ns() - start_ns;
    RETURN_IF_ERROR(with_pump(call->deadline, [&](Deadline slice) -> Status {
      ASSIGN_OR_RETURN(call->message, channel_.claim(plan, slice));
      return {};
    }));
    call->slowest = call->message->plan().slowest();
    call->times.total_ns = now_ns() - start_ns;
    return call;
  }

  Status submit(const std::shared_ptr<Call>& call) {
    call->submit_ns = now_ns();
    if (under_way_.size() >= limits::kMaxRequestsUnderWay)
      RETURN_IF_ERROR(receive_one(call->deadline));
    call->request.request_id = next_request_id_++;
    const std::uint64_t encode_ns = now_ns();
    const std::vector<std::byte> header = encode(call->request);
    call->times.tee_ns += now_ns() - encode_ns;
    call->slots_in_use = channel_.slots_in_use();
    const Status sent = with_pump(call->deadline, [&](Deadline slice) {
      return channel_.send(*call->message, header, slice);
    });
    // Once it is published it leaves, also where this op has no more time for that: its reply will
    // come, and must not be taken for another's.
    if (call->message->published()) {
      call->state = Call::State::kSubmitted;
      under_way_.push_back(call);
      call->message.reset();
    }
    return sent;
  }

  Status take_replies() {
    while (!under_way_.empty()) {
      const Status status = receive_one(Deadline::now());
      if (status.code() == StatusCode::kDeadlineExceeded) break;
      RETURN_IF_ERROR(status);
    }
    return {};
  }

  Status wait(Call& call) {
    while (call.state == Call::State::kSubmitted) {
      const Status status = receive_one(call.deadline);
      if (status.code() == StatusCode::kDeadlineExceeded) {
        return {StatusCode::kDeadlineExceeded,
                "no reply to {} in the {:.1f} s since it was sent, which was all its time "
                "(--op-timeout-ms){}",
                name_of(call.request.spec.op), seconds_since(call.submit_ns), peer_text()};
      }
      RETURN_IF_ERROR(status);
    }
    if (call.state == Call::State::kPrepared)
      return {StatusCode::kInternal, "wait() before submit()"};
    return call.state == Call::State::kFailed ? call.failure : Status();
  }

 private:
  // How the request travels; what it needs of the pool is the call's from here on.
  Result<MessagePlan> plan_call(Call& call) const {
    const PathPolicy& policy = channel_.policy();
    ASSIGN_OR_RETURN(MessagePlan plan, plan_message(policy, sizes_of(call.request.spec.inputs)));
    // How much the stats have only the server knows.
    if (!policy.has_pool || call.request.spec.op == Op::kStats) {
      RETURN_IF_ERROR(place_in_pool(plan, {}));
      return plan;
    }
    ASSIGN_OR_RETURN(MessagePlan reply, plan_message(policy, sizes_of(call.results)));
    // Most ops: their headers name no places.
    if (!plan.uses(Path::kPool) && !reply.uses(Path::kPool)) return plan;
    std::vector<PoolPlace>& places = call.request.places;
    RETURN_IF_ERROR(take_places(pool_, PoolUse::kInput, plan, call.input_blocks, places));
    RETURN_IF_ERROR(take_places(pool_, PoolUse::kOutput, reply, call.result_blocks, places));
    return plan;
  }

  Result<MessagePlan> plan_in_place(Call& call, std::vector<PoolPlace> places) const {
    const PathPolicy& policy = channel_.policy();
    const std::span<const PoolPlace> all = places;
    const std::size_t inputs = call.request.spec.inputs.size();
    CHECK(all.size() == inputs + call.results.size());
    const auto plan_for = [&policy](const std::vector<TensorDesc>& descs,
                                    std::span<const PoolPlace> own) {
      auto plan = plan_in_pool(policy, sizes_of(descs), own);
      if (!plan.ok()) plan = Status(StatusCode::kInvalidInput, plan.status().message());
      return plan;
    };
    ASSIGN_OR_RETURN(MessagePlan plan, plan_for(call.request.spec.inputs, all.first(inputs)));
    ASSIGN_OR_RETURN(const MessagePlan reply, plan_for(call.results, all.subspan(inputs)));
    if (plan.uses(Path::kPool) || reply.uses(Path::kPool)) call.request.places = std::move(places);
    return plan;
  }

  static double seconds_since(std::uint64_t ns) { return static_cast<double>(now_ns() - ns) / 1e9; }
  // "; WHAT" where something is known of the server.
  std::string peer_text() const { return peer_state_ ? "; " + peer_state_() : std::string(); }

  // Runs `step` until it is no longer short of room; replies are taken in between, so that a peer
  // that waits for us to read never waits for ever.
  template <typename Step>
  Status with_pump(Deadline deadline, const Step& step) {
    const std::uint64_t began_ns = now_ns();
    for (;;) {
      const Status status = step(under_way_.empty() ? deadline : deadline.slice(kPumpSlice));
      if (status.code() != StatusCode::kBusy) return status;
      if (deadline.expired()) {
        return {StatusCode::kDeadlineExceeded,
                "the server had no room for a request for {:.1f} s, and the op's time is over "
                "(--op-timeout-ms); {} requests are under way{}",
                seconds_since(began_ns), under_way_.size(), peer_text()};
      }
      if (under_way_.empty()) continue;
      const Status received = receive_one(deadline.slice(kPumpSlice));
      if (!received.ok() && received.code() != StatusCode::kDeadlineExceeded) return received;
    }
  }

  // The reply to the oldest request.
  Status receive_one(Deadline deadline) {
    const std::shared_ptr<Call> call = under_way_.front();
    const auto fail = [&call](const Status& failure) {
      call->failure = failure;
      call->state = Call::State::kFailed;
    };
    ResponseHeader response;
    std::uint64_t check_ns = 0;
    const auto accept = [&](std::span<const std::byte> header) -> Result<MessagePlan> {
      const std::uint64_t start_ns = now_ns();
      ASSIGN_OR_RETURN(response, decode_response(header));
      auto plan = accept_reply(*call, response, channel_.policy());
      check_ns = now_ns() - start_ns;
      return plan;
    };
    auto received = channel_.receive(AcceptPlan(accept), deadline);
    if (!received.ok()) {
      if (received.status().code() != StatusCode::kDeadlineExceeded) fail(received.status());
      return received.status();
    }
    under_way_.pop_front();
    call->input_blocks.clear();
    call->keeps.reset();
    call->times.tee_ns += check_ns;
    book(*call, response, (*received)->plan());
    if (response.code != StatusCode::kOk) {
      fail({code_of(response), "the server refused {}: {}", name_of(response.op),
            response.message});
      return {};
    }
    call->state = Call::State::kReplied;
    if (!call->abandoned) call->reply = std::move(received).value();
    return {};
  }

  void book(Call& call, const ResponseHeader& response, const MessagePlan& reply) {
    OpTimes& times = call.times;
    times.total_ns += now_ns() - call.submit_ns;
    times.queue_ns = response.queue_ns;
    times.server_ns = response.server_ns;
    balance(times);
    merge(op_stats_[response.op], OpSnapshot{1, times});
    const Path slowest = std::max(call.slowest, reply.slowest());
    channel_.stats()[slowest].latency_ns.record(times.tee_ns + times.wire_ns);
  }

  Channel& channel_;
  OpStatsTable& op_stats_;
  const std::function<std::string()> peer_state_;
  PoolLease* const pool_;
  std::uint64_t next_request_id_ = 1;
  std::deque<std::shared_ptr<Call>> under_way_;
};

namespace {

class RemotePending : public Pending {
 public:
  RemotePending(RequestQueue& queue, std::shared_ptr<Call> call)
      : queue_(queue), call_(std::move(call)) {}
  ~RemotePending() override {
    call_->abandoned = true;
    call_->reply.reset();
    call_->message.reset();
  }

  MutableTensorView input(std::size_t index) override {
    CHECK(call_->message != nullptr && index < call_->request.spec.inputs.size());
    return {call_->message->tensor(index).data(), call_->request.spec.inputs[index]};
  }
  Status submit() override {
    CHECK(call_->message != nullptr);
    return queue_.submit(call_);
  }
  bool done() override {
    return call_->state == Call::State::kReplied || call_->state == Call::State::kFailed;
  }
  Status wait() override { return queue_.wait(*call_); }
  std::span<const TensorDesc> result_descs() const override { return call_->results; }
  TensorView result(std::size_t index) const override {
    CHECK(call_->state == Call::State::kReplied && index < call_->results.size());
    return {call_->reply->tensor(index).data(), call_->results[index]};
  }
  OpTimes times() const override { return call_->times; }
  std::size_t slots_in_use() const override { return call_->slots_in_use; }

 private:
  RequestQueue& queue_;
  // Shared with the queue: a reply may come after the Pending is gone.
  const std::shared_ptr<Call> call_;
};

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

RemoteBackend::RemoteBackend(BackendInfo info, Channel& channel, OpStatsTable& op_stats,
                             std::function<std::string()> peer_state, PoolLease* pool)
    : info_(std::move(info)),
      queue_(std::make_unique<RequestQueue>(channel, op_stats, std::move(peer_state), pool)) {}

RemoteBackend::~RemoteBackend() = default;

Result<std::unique_ptr<Pending>> RemoteBackend::prepare(const OpSpec& spec, Deadline deadline) {
  const std::uint64_t start_ns = now_ns();
  ASSIGN_OR_RETURN(std::vector<TensorDesc> results, op_results(spec, info_.dims));
  ASSIGN_OR_RETURN(auto call, queue_->prepare(spec, std::move(results), deadline, start_ns));
  return std::unique_ptr<Pending>(std::make_unique<RemotePending>(*queue_, std::move(call)));
}

Result<std::unique_ptr<Pending>> RemoteBackend::prepare_in_place(const OpSpec& spec,
                                                                 std::vector<PoolPlace> places,
                                                                 std::shared_ptr<const void> keeps,
                                                                 Deadline deadline) {
  const std::uint64_t start_ns = now_ns();
  ASSIGN_OR_RETURN(std::vector<TensorDesc> results, op_results(spec, info_.dims));
  ASSIGN_OR_RETURN(auto call, queue_->prepare_in_place(spec, std::move(results), std::move(places),
                                                       std::move(keeps), deadline, start_ns));
  return std::unique_ptr<Pending>(std::make_unique<RemotePending>(*queue_, std::move(call)));
}

Status RemoteBackend::take_replies() { return queue_->take_replies(); }

/// An op of the session's own, to its reply.
Result<std::unique_ptr<ReceivedMessage>> RemoteBackend::ask(Op op, std::vector<TensorDesc> results,
                                                            Deadline deadline) {
  OpSpec spec;
  spec.op = op;
  ASSIGN_OR_RETURN(const auto call, queue_->prepare(spec, std::move(results), deadline, now_ns()));
  RETURN_IF_ERROR(queue_->submit(call));
  RETURN_IF_ERROR(queue_->wait(*call));
  return std::move(call->reply);
}

Status RemoteBackend::init(std::size_t config_bytes, std::string& config_json, Tensor& norms,
                           Deadline deadline) {
  if (config_bytes == 0 || config_bytes > limits::kMaxConfigBytes) {
    return refuse("the server's config has {} bytes, at most {} are taken", config_bytes,
                  limits::kMaxConfigBytes);
  }
  const TensorDesc config_desc{DType::kU8, Shape{static_cast<std::int64_t>(config_bytes)}};
  const TensorDesc norms_desc{DType::kF32, Shape{2 * info_.dims.layers + 1, info_.dims.hidden}};
  ASSIGN_OR_RETURN(const auto reply, ask(Op::kInit, {config_desc, norms_desc}, deadline));
  // Copied before anything looks at them: the server can still change the slot.
  config_json = text_of(reply->tensor(0));
  norms = Tensor(norms_desc);
  std::memcpy(norms.mutable_view().data, reply->tensor(1).data(), norms_desc.bytes());
  return {};
}

Status RemoteBackend::ping(Deadline deadline) { return ask(Op::kPing, {}, deadline).status(); }

Result<std::string> RemoteBackend::session_stats(Deadline deadline) {
  const TensorDesc at_most{DType::kU8, Shape{static_cast<std::int64_t>(limits::kMaxStatsBytes)}};
  ASSIGN_OR_RETURN(const auto reply, ask(Op::kStats, {at_most}, deadline));
  return text_of(reply->tensor(0));
}

}  // namespace airlock
