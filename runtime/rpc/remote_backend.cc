#include "runtime/rpc/remote_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <vector>

#include "proto/limits.h"
#include "proto/message.h"
#include "runtime/rpc/op_clock.h"

namespace airlock {

namespace {

// One slice of a wait in which replies are pumped while a request cannot be handed over.
constexpr std::chrono::milliseconds kPumpSlice{2};

// What the session knows of one request until its Pending is destroyed.
struct Call {
  enum class State { kPrepared, kSubmitted, kReplied, kFailed };
  State state = State::kPrepared;
  bool abandoned = false;
  std::uint64_t request_id = 0;
  RequestHeader request;
  std::vector<TensorDesc> expected;
  bool sized_by_server =
      false;  // init and stats: the one uint8 result's length is checked against a limit instead
  Deadline deadline = Deadline::now();
  std::unique_ptr<Message> message;
  std::unique_ptr<ReceivedMessage> reply;
  ResponseHeader response;
  Status failure;
  std::uint64_t submit_ns = 0;
  OpTimes times;
  std::size_t slots_in_use = 0;
  Path slowest = kPaths.front();  // that the request or its reply used
};

Status server_said(const ResponseHeader& response) {
  return {response.code,
          fmt::format("the server refused {}: {}", name_of(response.op), response.message)};
}

}  // namespace

// The requests under way on one channel, oldest first. Replies come in the order of the requests.
class RemoteSession {
 public:
  RemoteSession(Channel& channel, OpStatsTable& op_stats)
      : channel_(channel), op_stats_(op_stats) {}

  Result<std::shared_ptr<Call>> prepare(const OpSpec& spec, std::vector<TensorDesc> expected,
                                        bool sized_by_server, Deadline deadline);
  Status submit(const std::shared_ptr<Call>& call);
  Status wait(Call& call);

 private:
  Status receive_one(Deadline deadline);
  Result<std::vector<std::size_t>> accept_reply(Call& call, std::span<const std::byte> header);
  // Runs `step` until it is no longer short of room; replies are taken in between, so that a peer
  // that waits for us to read never waits for ever.
  template <typename Step>
  Status with_pump(Deadline deadline, const Step& step);

  Channel& channel_;
  OpStatsTable& op_stats_;
  std::uint64_t next_request_id_ = 1;
  std::deque<std::shared_ptr<Call>> under_way_;
};

template <typename Step>
Status RemoteSession::with_pump(Deadline deadline, const Step& step) {
  for (;;) {
    const Status status = step(under_way_.empty() ? deadline : deadline.slice(kPumpSlice));
    if (status.code() != StatusCode::kBusy) return status;
    if (deadline.expired()) {
      return {StatusCode::kDeadlineExceeded,
              "the server took no request before the op's deadline (--op-timeout-ms)"};
    }
    if (under_way_.empty()) continue;
    const Status received = receive_one(deadline.slice(kPumpSlice));
    if (!received.ok() && received.code() != StatusCode::kDeadlineExceeded) return received;
  }
}

Result<std::shared_ptr<Call>> RemoteSession::prepare(const OpSpec& spec,
                                                     std::vector<TensorDesc> expected,
                                                     bool sized_by_server, Deadline deadline) {
  const std::uint64_t start_ns = now_ns();
  auto call = std::make_shared<Call>();
  call->request.spec = spec;
  call->expected = std::move(expected);
  call->sized_by_server = sized_by_server;
  call->deadline = deadline;
  const std::vector<std::size_t> sizes = sizes_of(spec.inputs);
  RETURN_IF_ERROR(with_pump(deadline, [&](Deadline slice) -> Status {
    auto message = channel_.prepare(sizes, slice);
    if (!message.ok()) return message.status();
    call->message = std::move(message).value();
    return {};
  }));
  call->slowest = call->message->plan().slowest();
  call->times.tee_ns += now_ns() - start_ns;
  return call;
}

Status RemoteSession::submit(const std::shared_ptr<Call>& call) {
  call->submit_ns = now_ns();
  if (under_way_.size() >= limits::kMaxRequestsUnderWay)
    RETURN_IF_ERROR(receive_one(call->deadline));
  call->request.request_id = call->request_id = next_request_id_++;
  const std::vector<std::byte> header = encode(call->request);
  call->times.tee_ns = now_ns() - call->submit_ns;
  call->slots_in_use = channel_.slots_in_use();
  RETURN_IF_ERROR(with_pump(call->deadline, [&](Deadline slice) {
    return channel_.send(*call->message, header, slice);
  }));
  call->message.reset();
  call->state = Call::State::kSubmitted;
  under_way_.push_back(call);
  return {};
}

Result<std::vector<std::size_t>> RemoteSession::accept_reply(Call& call,
                                                             std::span<const std::byte> header) {
  ASSIGN_OR_RETURN(call.response, decode_response(header));
  const ResponseHeader& response = call.response;
  auto refuse = [](std::string text) {
    return Status(StatusCode::kProtocolError, std::move(text));
  };
  if (response.request_id != call.request_id) {
    return refuse(fmt::format("a reply to request {} came, expected one to {}", response.request_id,
                              call.request_id));
  }
  if (response.op != call.request.spec.op) {
    return refuse(fmt::format("a reply to op {} came, expected {}", name_of(response.op),
                              name_of(call.request.spec.op)));
  }
  if (response.code != StatusCode::kOk) return std::vector<std::size_t>();
  const std::vector<std::size_t> sizes = sizes_of(response.results);
  if (sizes.size() != call.expected.size()) {
    return refuse(fmt::format("a reply to {} has {} results, expected {}", name_of(response.op),
                              sizes.size(), call.expected.size()));
  }
  if (call.sized_by_server && sizes.size() == 1) {
    const std::size_t limit = call.expected[0].bytes();
    if (sizes[0] > limit)
      return refuse(fmt::format("a reply of {} bytes, at most {} are taken", sizes[0], limit));
    call.expected[0].shape = Shape{static_cast<std::int64_t>(sizes[0])};
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (!(response.results[i] == call.expected[i])) {
      return refuse(
          fmt::format("result {} of {} is {} {}, expected {} {}", i, name_of(response.op),
                      name_of(response.results[i].dtype), response.results[i].shape.to_string(),
                      name_of(call.expected[i].dtype), call.expected[i].shape.to_string()));
    }
  }
  return sizes;
}

Status RemoteSession::receive_one(Deadline deadline) {
  const std::shared_ptr<Call> call = under_way_.front();
  std::uint64_t check_ns = 0;
  auto received = channel_.receive(
      [&](std::span<const std::byte> header) {
        const std::uint64_t start_ns = now_ns();
        auto sizes = accept_reply(*call, header);
        check_ns = now_ns() - start_ns;
        return sizes;
      },
      deadline);
  if (!received.ok()) {
    if (received.status().code() != StatusCode::kDeadlineExceeded) {
      call->failure = received.status();
      call->state = Call::State::kFailed;
    }
    return received.status();
  }
  under_way_.pop_front();
  call->times.tee_ns += check_ns;
  call->times.total_ns = now_ns() - call->submit_ns;
  call->times.queue_ns = call->response.queue_ns;
  call->times.server_ns = call->response.server_ns;
  const std::uint64_t latency_ns = book_op(op_stats_.of(call->request.spec.op), call->times);
  const Path slowest = std::max(call->slowest, (*received)->plan().slowest());
  channel_.stats().path(slowest).latency_ns.record(latency_ns);
  if (call->response.code != StatusCode::kOk) {
    call->failure = server_said(call->response);
    call->state = Call::State::kFailed;
    return {};
  }
  call->state = Call::State::kReplied;
  if (!call->abandoned) call->reply = std::move(received).value();
  return {};
}

Status RemoteSession::wait(Call& call) {
  while (call.state == Call::State::kSubmitted) {
    const Status status = receive_one(call.deadline);
    if (status.code() == StatusCode::kDeadlineExceeded) {
      return {StatusCode::kDeadlineExceeded,
              fmt::format("no reply to {} before the op's deadline (--op-timeout-ms)",
                          name_of(call.request.spec.op))};
    }
    RETURN_IF_ERROR(status);
  }
  if (call.state == Call::State::kFailed) return call.failure;
  if (call.state == Call::State::kPrepared)
    return {StatusCode::kInternal, "wait() before submit()"};
  return {};
}

namespace {

class RemotePending : public Pending {
 public:
  RemotePending(RemoteSession& session, std::shared_ptr<Call> call, const Operands& operands)
      : session_(session),
        call_(std::move(call)),
        has_inputs_(!operands.inputs.empty()),
        results_(operands.results.begin(), operands.results.end()) {
    for (std::size_t i = 0; i < operands.inputs.size(); ++i) {
      // The caller's memory is not the channel's: this is the copy that a loan saves.
      const std::span<std::byte> place = call_->message->tensor(i);
      if (!place.empty()) std::memcpy(place.data(), operands.inputs[i].data, place.size());
    }
  }
  ~RemotePending() override {
    call_->abandoned = true;
    call_->reply.reset();
    call_->message.reset();
  }

  MutableTensorView input(std::size_t index) override {
    CHECK(!has_inputs_ && call_->message != nullptr && index < call_->request.spec.inputs.size());
    return {call_->message->tensor(index).data(), call_->request.spec.inputs[index]};
  }
  Status submit() override {
    CHECK(call_->message != nullptr);
    return session_.submit(call_);
  }
  bool done() override {
    return call_->state == Call::State::kReplied || call_->state == Call::State::kFailed;
  }
  Status wait() override {
    RETURN_IF_ERROR(session_.wait(*call_));
    if (results_.empty() || copied_) return {};
    for (std::size_t i = 0; i < results_.size(); ++i) {
      const std::span<const std::byte> bytes = call_->reply->tensor(i);
      if (!bytes.empty()) std::memcpy(results_[i].data, bytes.data(), bytes.size());
    }
    copied_ = true;
    call_->reply.reset();
    return {};
  }
  TensorView result(std::size_t index) const override {
    CHECK(call_->state == Call::State::kReplied && index < call_->expected.size());
    if (!results_.empty()) return results_[index];
    return {call_->reply->tensor(index).data(), call_->expected[index]};
  }
  OpTiming timing() const override {
    const OpTimes& times = call_->times;
    return {times.queue_ns, times.server_ns, times.tee_ns,
            times.wire_ns,  times.total_ns,  call_->slots_in_use};
  }

 private:
  RemoteSession& session_;
  std::shared_ptr<Call>
      call_;  // shared with the session's queue: a reply may come after the Pending is gone
  bool has_inputs_;
  std::vector<MutableTensorView> results_;
  bool copied_ = false;
};

Status check_operands(std::span<const TensorDesc> expected, std::size_t given, auto desc_of,
                      const char* what) {
  if (given == 0) return {};
  if (given != expected.size()) {
    return {StatusCode::kInvalidInput,
            fmt::format("{} {}s are given, the op has {}", given, what, expected.size())};
  }
  for (std::size_t i = 0; i < given; ++i) {
    if (!(desc_of(i) == expected[i])) {
      return {StatusCode::kInvalidInput,
              fmt::format("{} {} is {}, the op has {}", what, i, desc_of(i).shape.to_string(),
                          expected[i].shape.to_string())};
    }
  }
  return {};
}

class RemoteBackendImpl : public RemoteBackend {
 public:
  RemoteBackendImpl(const BackendInfo& info, Channel& channel, OpStatsTable& op_stats)
      : info_(info), session_(channel, op_stats) {}

  const BackendInfo& info() const override { return info_; }

  Result<std::unique_ptr<Pending>> prepare(const OpSpec& spec, const Operands& operands,
                                           Deadline deadline) override {
    ASSIGN_OR_RETURN(std::vector<TensorDesc> expected, op_results(spec, info_.dims));
    RETURN_IF_ERROR(check_operands(
        spec.inputs, operands.inputs.size(), [&](std::size_t i) { return operands.inputs[i].desc; },
        "input"));
    RETURN_IF_ERROR(check_operands(
        expected, operands.results.size(), [&](std::size_t i) { return operands.results[i].desc; },
        "result"));
    ASSIGN_OR_RETURN(std::shared_ptr<Call> call,
                     session_.prepare(spec, std::move(expected), false, deadline));
    return std::unique_ptr<Pending>(
        std::make_unique<RemotePending>(session_, std::move(call), operands));
  }

  Status init(std::size_t config_bytes, std::string& config_json, Tensor& norms,
              Deadline deadline) override {
    if (config_bytes == 0 || config_bytes > limits::kMaxConfigBytes) {
      return {StatusCode::kProtocolError,
              fmt::format("the server's config has {} bytes, at most {} are taken", config_bytes,
                          limits::kMaxConfigBytes)};
    }
    OpSpec spec;
    spec.op = Op::kInit;
    const TensorDesc config_desc{DType::kU8, Shape{static_cast<std::int64_t>(config_bytes)}};
    const TensorDesc norms_desc{DType::kF32, Shape{2 * info_.dims.layers + 1, info_.dims.hidden}};
    ASSIGN_OR_RETURN(auto call, session_.prepare(spec, {config_desc, norms_desc}, false, deadline));
    RemotePending pending(session_, call, {});
    RETURN_IF_ERROR(pending.submit());
    RETURN_IF_ERROR(pending.wait());
    // Copied before anything looks at them: the server can still change the slot.
    const std::span<const std::byte> config = call->reply->tensor(0);
    config_json.assign(reinterpret_cast<const char*>(config.data()), config.size());
    norms = Tensor(norms_desc);
    const std::span<const std::byte> rows = call->reply->tensor(1);
    std::memcpy(norms.mutable_view().data, rows.data(), rows.size());
    return {};
  }

  Status ping(Deadline deadline) override {
    ASSIGN_OR_RETURN(auto call, session_.prepare(OpSpec{}, {}, false, deadline));
    RemotePending pending(session_, call, {});
    RETURN_IF_ERROR(pending.submit());
    return pending.wait();
  }

  Result<std::string> session_stats(Deadline deadline) override {
    OpSpec spec;
    spec.op = Op::kStats;
    const TensorDesc at_most{DType::kU8, Shape{static_cast<std::int64_t>(limits::kMaxStatsBytes)}};
    ASSIGN_OR_RETURN(auto call, session_.prepare(spec, {at_most}, true, deadline));
    RemotePending pending(session_, call, {});
    RETURN_IF_ERROR(pending.submit());
    RETURN_IF_ERROR(pending.wait());
    const std::span<const std::byte> text = call->reply->tensor(0);
    return std::string(reinterpret_cast<const char*>(text.data()), text.size());
  }

 private:
  BackendInfo info_;
  RemoteSession session_;
};

}  // namespace

std::unique_ptr<RemoteBackend> RemoteBackend::create(const BackendInfo& info, Channel& channel,
                                                     OpStatsTable& op_stats) {
  return std::make_unique<RemoteBackendImpl>(info, channel, op_stats);
}

}  // namespace airlock
