#include "runtime/rpc/serve.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/patience.h"
#include "proto/limits.h"
#include "proto/message.h"

namespace airlock {

namespace {

constexpr std::chrono::seconds kReceiveSlice{1};  // how often an idle loop comes round
/// Ops of one session that are under way at once: while one computes, the input of the next is on
/// its way to the device.
constexpr std::size_t kMostUnderWay = 2;
constexpr int kSpins = 200;  // looks for an op's end or a request, before it naps between looks
Status op_fits(Op op, Privacy privacy) {
  const auto fits = [&] {
    if (!is_computed(op)) return true;
    if (privacy == Privacy::kPlain) return !is_integer(op);
    return op == (privacy == Privacy::kDealer ? Op::kPadLinear : Op::kIntLinear);
  };
  if (fits()) return {};
  return {StatusCode::kInvalidInput, "{} does not belong to a session whose privacy mode is {}",
          name_of(op), name_of(privacy)};
}

/// How long a session whose device failed stays, so that its client can read why.
constexpr std::chrono::seconds kLastWords{1};

/// One request, from its receipt to its reply.
struct Service {
  Service() = default;
  Service(Service&&) = default;
  // Would drop the old message under its computation.
  Service& operator=(Service&&) = delete;

  /// Whether finish_first() has nothing to wait for.
  bool done() {
    return !status.ok() || computation == nullptr || computation->done() || deadline.expired();
  }

  // A private copy.
  RequestHeader request;
  // What it gives.
  std::vector<TensorDesc> results;
  // How its reply will travel.
  MessagePlan reply_plan;
  // Of the stats op.
  std::string stats_text;
  Deadline deadline = Deadline::now();
  std::uint64_t received_ns = 0;
  std::uint64_t start_ns = 0;
  Status status;
  // Destroyed from the last: a device may read the message and write the reply until the
  // computation is gone. Null: nothing is computed.
  std::unique_ptr<ReceivedMessage> message;
  std::unique_ptr<Message> reply;
  std::unique_ptr<Computation> computation;
};

// One session's loop. A failed op gives an error reply; a Status out of here ends the session.
class ServeLoop {
 public:
  ServeLoop(Channel& channel, Compute& compute, const ServeContext& context, OpStatsTable& op_stats)
      : channel_(channel), compute_(compute), context_(context), op_stats_(op_stats) {}

  Status run() {
    for (Patience patience(kSpins);;) {
      if (context_.watch != nullptr) RETURN_IF_ERROR(context_.watch->check());
      if (held_) RETURN_IF_ERROR(begin_held());
      const bool full = held_ || under_way_.size() >= kMostUnderWay;
      if (!under_way_.empty() && (full || under_way_.front().done())) {
        RETURN_IF_ERROR(finish_first());
        patience.reset();
        continue;
      }
      auto received =
          receive(under_way_.empty() ? Deadline::after(kReceiveSlice) : Deadline::now());
      if (received.ok()) {
        hold(std::move(received).value());
        patience.reset();
      } else if (received.status().code() != StatusCode::kDeadlineExceeded) {
        return received.status();
      } else if (!under_way_.empty()) {
        patience.pause();
      }
    }
  }

 private:
  Result<std::unique_ptr<ReceivedMessage>> receive(Deadline deadline) {
    return channel_.receive(AcceptPlan([this](auto header) { return accept(header); }), deadline);
  }

  // Before memory is given to the request: how its tensors and those of its reply travel, which
  // follows from a valid spec and from the places that it names.
  Result<MessagePlan> accept(std::span<const std::byte> header) {
    ASSIGN_OR_RETURN(next_.request, decode_request(header));
    const OpSpec& spec = next_.request.spec;
    next_.status = {};
    if (!is_computed(spec.op) && !spec.inputs.empty()) {
      return Status(StatusCode::kProtocolError, "{} carries tensors", name_of(spec.op));
    }
    const auto text_desc = [](const std::string& text) {
      return TensorDesc{DType::kU8, Shape{static_cast<std::int64_t>(text.size())}};
    };
    switch (spec.op) {
      case Op::kInit:
        if (compute_.info().dims.is_none()) {
          next_.results.clear();
          next_.status = {StatusCode::kMismatch, "this server has no model (--no-model)"};
          break;
        }
        next_.results = {text_desc(context_.config_json), context_.norms.desc};
        break;
      case Op::kStats:
        next_.stats_text = context_.session_stats().substr(0, limits::kMaxStatsBytes);
        next_.results = {text_desc(next_.stats_text)};
        break;
      default: {
        auto results = op_results(spec, compute_.info().dims);
        // A spec that does not fit the model is refused before its bulk is received: the session
        // ends.
        if (!results.ok()) return Status(StatusCode::kProtocolError, results.status().message());
        next_.results = std::move(results).value();
        next_.status = op_fits(spec.op, context_.privacy);
        if (next_.status.ok()) next_.status = check_work(spec);
      }
    }
    return plan();
  }

  Result<MessagePlan> plan() {
    const std::span<const PoolPlace> places = next_.request.places;
    const std::size_t inputs = next_.request.spec.inputs.size();
    const std::size_t expected = inputs + next_.results.size();
    if (!places.empty() && places.size() != expected) {
      return Status(StatusCode::kProtocolError, "{} places in the pool for {} tensors",
                    places.size(), expected);
    }
    const auto plan_for = [&](const std::vector<TensorDesc>& descs, std::size_t first) {
      auto plan = plan_in_pool(channel_.policy(), sizes_of(descs),
                               places.empty() ? places : places.subspan(first, descs.size()));
      if (!plan.ok()) plan = Status(StatusCode::kProtocolError, plan.status().message());
      return plan;
    };
    if (next_.status.ok()) {
      ASSIGN_OR_RETURN(next_.reply_plan, plan_for(next_.results, inputs));
    } else {
      next_.results.clear();
      ASSIGN_OR_RETURN(next_.reply_plan, plan_for({}, expected));
    }
    return plan_for(next_.request.spec.inputs, 0);
  }

  /// What fits the model may still be more work than anybody asks of it: the client is told.
  Status check_work(const OpSpec& spec) const {
    const std::uint64_t flop = op_flop(spec, compute_.info().dims);
    if (context_.max_op_flop == 0 || flop <= context_.max_op_flop) return {};
    return {StatusCode::kInvalidInput,
            "{} takes {:.3g} multiplications and additions, more than the {:.3g} of one op that "
            "this server takes (--max-op-flop)",
            name_of(spec.op), static_cast<double>(flop), static_cast<double>(context_.max_op_flop)};
  }

  void hold(std::unique_ptr<ReceivedMessage> message) {
    // All of it is there: the time that bulk took to come is the wire's.
    next_.received_ns = now_ns();
    next_.message = std::move(message);
    next_.deadline = Deadline::after(context_.op_timeout);
    held_.emplace(std::move(next_));
  }

  /// Whether one that is under way writes in the pool what `later` uses there, or the other way
  /// round: a result may be the next op's operand.
  bool meets_one_under_way(const Service& later) const {
    if (!channel_.policy().has_pool) return false;
    return std::ranges::any_of(under_way_, [&later](const Service& earlier) {
      return meet_in_pool(earlier.reply_plan, later.message->plan()) ||
             meet_in_pool(earlier.reply_plan, later.reply_plan) ||
             meet_in_pool(earlier.message->plan(), later.reply_plan);
    });
  }

  /// Starts what was received. Stays held where it needs what another one has not written yet, and
  /// where the reply finds no room and earlier replies are
  /// still to be sent: the client may wait for those before it reads on.
  Status begin_held() {
    Service& service = *held_;
    if (meets_one_under_way(service)) return {};
    service.start_ns = now_ns();
    auto reply =
        channel_.claim(service.reply_plan, under_way_.empty() ? service.deadline : Deadline::now());
    if (reply.ok()) {
      service.reply = std::move(reply).value();
      if (service.status.ok()) service.status = start(service);
    } else if (reply.status().code() == StatusCode::kResourceExhausted) {
      service.status = reply.status();  // no memory for the results, which the client is told
    } else if (reply.status().code() == StatusCode::kBusy && !under_way_.empty()) {
      return {};
    } else {
      return no_taker(reply.status());
    }
    under_way_.push_back(std::move(service));
    held_.reset();
    return {};
  }

  /// Waits for the oldest op and answers it. Not ok: the session is over.
  Status finish_first() {
    Service service = std::move(under_way_.front());
    under_way_.pop_front();
    OpTimes times;
    if (service.status.ok() && service.computation) {
      service.status = service.computation->wait();
      if (service.status.ok()) times = service.computation->times();
    }
    // The slots of the request go home before the reply: the runner may fill them at once.
    service.computation.reset();
    service.message.reset();
    ResponseHeader header;
    header.request_id = service.request.request_id;
    header.op = service.request.spec.op;
    if (service.status.ok()) {
      header.results = service.results;
    } else {
      header.code = service.status.code();
      header.message = service.status.message().substr(0, limits::kMaxErrorTextBytes);
      service.reply.reset();
      auto error_reply = channel_.prepare({}, service.deadline);
      if (!error_reply.ok()) return no_taker(error_reply.status());
      service.reply = std::move(error_reply).value();
    }
    times.queue_ns += service.start_ns - service.received_ns;
    times.total_ns = now_ns() - service.received_ns;
    balance(times);
    header.queue_ns = times.queue_ns;
    header.server_ns = times.server_ns;
    merge(op_stats_[header.op], OpSnapshot{1, times});
    if (context_.service_ns != nullptr) (*context_.service_ns)[header.op].record(times.total_ns);
    RETURN_IF_ERROR(no_taker(channel_.send(*service.reply, encode(header), service.deadline)));
    if (service.status.code() != StatusCode::kDevice) return {};
    let_client_leave();
    return service.status;
  }

  /// No op will work any more. The client has been told and leaves by itself; where it does not,
  /// the session ends all the same.
  void let_client_leave() {
    const Deadline deadline = Deadline::after(kLastWords);
    while (!deadline.expired() && receive(deadline).ok()) {
    }
  }

  static Status no_taker(const Status& status) {
    if (status.code() != StatusCode::kBusy) return status;
    return {StatusCode::kUnavailable, "the client took no reply within the op's time limit"};
  }

  Status start(Service& service) {
    const OpSpec& spec = service.request.spec;
    Message& reply = *service.reply;
    switch (spec.op) {
      case Op::kInit:
        std::memcpy(reply.tensor(0).data(), context_.config_json.data(),
                    context_.config_json.size());
        std::memcpy(reply.tensor(1).data(), context_.norms.data, context_.norms.desc.bytes());
        return {};
      case Op::kStats:
        std::memcpy(reply.tensor(0).data(), service.stats_text.data(), service.stats_text.size());
        return {};
      case Op::kPing:
        return {};
      default:
        break;
    }
    OpMemory memory;
    for (std::size_t i = 0; i < spec.inputs.size(); ++i)
      memory.inputs.push_back({service.message->tensor(i).data(), spec.inputs[i]});
    for (std::size_t i = 0; i < service.results.size(); ++i)
      memory.results.push_back({reply.tensor(i).data(), service.results[i]});
    const PeerWatch* watch = context_.watch;
    const OpLife life(service.deadline,
                      [watch] { return watch != nullptr ? watch->check() : Status(); });
    ASSIGN_OR_RETURN(service.computation, compute_.prepare(spec, std::move(memory), life));
    return service.computation->submit();
  }

  Channel& channel_;
  Compute& compute_;
  const ServeContext& context_;
  OpStatsTable& op_stats_;
  // What accept() has read of the request that comes.
  Service next_;
  // Received, and not yet begun.
  std::optional<Service> held_;
  std::deque<Service> under_way_;
};

}  // namespace

Status serve(Channel& channel, Compute& compute, const ServeContext& context,
             OpStatsTable& op_stats) {
  return ServeLoop(channel, compute, context, op_stats).run();
}

}  // namespace airlock
