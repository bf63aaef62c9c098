#include "runtime/rpc/serve.h"

#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

#include "proto/limits.h"
#include "proto/message.h"

namespace airlock {

namespace {

constexpr std::chrono::seconds kReceiveSlice{
    1};  // how often an idle loop comes round; the channel parks meanwhile

// One session's loop. A failed op gives an error reply; a Status out of here ends the session.
class Server {
 public:
  Server(Channel& channel, Backend& backend, const ServeContext& context, OpStatsTable& op_stats)
      : channel_(channel), backend_(backend), context_(context), op_stats_(op_stats) {}

  Status run() {
    for (;;) {
      if (context_.watch != nullptr) RETURN_IF_ERROR(context_.watch->check());
      auto received =
          channel_.receive([this](auto header, auto sizes) { return accept(header, sizes); },
                           Deadline::after(kReceiveSlice));
      if (received.ok()) {
        RETURN_IF_ERROR(answer(std::move(received).value()));
      } else if (received.status().code() != StatusCode::kDeadlineExceeded) {
        return received.status();
      }
    }
  }

 private:
  // Before memory is given to the request: its sizes must be exactly those of a valid spec.
  Status accept(std::span<const std::byte> header, std::span<const std::size_t> sizes) {
    ASSIGN_OR_RETURN(request_, decode_request(header));
    const std::vector<TensorDesc>& inputs = request_.spec.inputs;
    if (inputs.size() != sizes.size()) {
      return {StatusCode::kProtocolError, fmt::format("a request names {} tensors and carries {}",
                                                      inputs.size(), sizes.size())};
    }
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      if (inputs[i].shape.byte_count(inputs[i].dtype) != sizes[i]) {
        return {StatusCode::kProtocolError,
                fmt::format("input {} is {} {} and carries {} bytes", i,
                            dtype_name(inputs[i].dtype), inputs[i].shape.to_string(), sizes[i])};
      }
    }
    results_.clear();
    switch (request_.spec.op) {
      case Op::kInit:
        results_ = {{DType::kU8, Shape{static_cast<std::int64_t>(context_.config_json.size())}},
                    context_.norms.desc};
        break;
      case Op::kStats:
        stats_text_ = context_.session_stats().substr(0, limits::kMaxStatsBytes);
        results_ = {{DType::kU8, Shape{static_cast<std::int64_t>(stats_text_.size())}}};
        break;
      default: {
        auto results = op_results(request_.spec, backend_.info().dims);
        // A spec that does not fit the model is refused before its bulk is received: the session
        // ends.
        if (!results.ok()) return {StatusCode::kProtocolError, results.status().message()};
        results_ = std::move(results).value();
      }
    }
    const bool has_inputs = request_.spec.op != Op::kInit && request_.spec.op != Op::kStats &&
                            request_.spec.op != Op::kPing;
    if (!has_inputs && !sizes.empty())
      return {StatusCode::kProtocolError,
              fmt::format("{} carries tensors", op_name(request_.spec.op))};
    return {};
  }

  Status answer(std::unique_ptr<ReceivedMessage> request) {
    received_ns_ = now_ns();  // all of it: the time that bulk took to come is the wire's
    std::vector<std::size_t> sizes;
    for (const TensorDesc& desc : results_) sizes.push_back(desc.bytes());
    const Deadline deadline = Deadline::after(context_.op_timeout);
    OpTiming timing;
    const std::uint64_t start_ns = now_ns();
    auto prepared = channel_.prepare(sizes, deadline);
    std::unique_ptr<Message> reply;
    Status status = prepared.status();
    if (prepared.ok()) {
      reply = std::move(prepared).value();
      status = compute(*request, *reply, deadline, timing);
    } else if (status.code() != StatusCode::kResourceExhausted || deadline.expired()) {
      return no_taker(status);
    }  // else: no memory for the results, which the client is told
    // The slots of the request go home before the reply: the runner may fill them at once.
    request.reset();
    ResponseHeader header;
    header.request_id = request_.request_id;
    header.op = request_.spec.op;
    header.queue_ns = timing.queue_ns + (start_ns - received_ns_);
    header.server_ns = timing.server_ns;
    if (status.ok()) {
      header.results = results_;
    } else {
      header.code = status.code();
      header.message = status.message().substr(0, limits::kMaxErrorTextBytes);
      reply.reset();
      auto error_reply = channel_.prepare({}, deadline);
      if (!error_reply.ok()) return no_taker(error_reply.status());
      reply = std::move(error_reply).value();
    }
    book(header);
    return no_taker(channel_.send(*reply, encode(header), deadline));
  }

  static Status no_taker(const Status& status) {
    if (status.code() != StatusCode::kResourceExhausted) return status;
    return {StatusCode::kUnavailable, "the client took no reply within the op's time limit"};
  }

  Status compute(ReceivedMessage& request, Message& reply, Deadline deadline, OpTiming& timing) {
    switch (request_.spec.op) {
      case Op::kInit:
        std::memcpy(reply.tensor(0).data(), context_.config_json.data(),
                    context_.config_json.size());
        std::memcpy(reply.tensor(1).data(), context_.norms.data, context_.norms.desc.bytes());
        return {};
      case Op::kStats:
        std::memcpy(reply.tensor(0).data(), stats_text_.data(), stats_text_.size());
        return {};
      case Op::kPing:
        return {};
      default:
        break;
    }
    std::vector<TensorView> inputs;
    for (std::size_t i = 0; i < request_.spec.inputs.size(); ++i) {
      inputs.push_back({request.tensor(i).data(), request_.spec.inputs[i]});
    }
    std::vector<MutableTensorView> results;
    for (std::size_t i = 0; i < results_.size(); ++i)
      results.push_back({reply.tensor(i).data(), results_[i]});
    ASSIGN_OR_RETURN(auto pending, backend_.prepare(request_.spec, {inputs, results}, deadline));
    RETURN_IF_ERROR(pending->submit());
    RETURN_IF_ERROR(pending->wait());
    timing = pending->timing();
    return {};
  }

  void book(const ResponseHeader& header) {
    constexpr auto relaxed = std::memory_order_relaxed;
    OpStats& stats = op_stats_.of(header.op);
    const std::uint64_t total_ns = now_ns() - received_ns_;
    stats.calls.fetch_add(1, relaxed);
    stats.total_ns.fetch_add(total_ns, relaxed);
    if (context_.service_ns != nullptr) {
      (*context_.service_ns)[static_cast<std::size_t>(header.op) - 1].record(total_ns);
    }
    stats.queue_ns.fetch_add(header.queue_ns, relaxed);
    stats.server_ns.fetch_add(header.server_ns, relaxed);
    const std::uint64_t known_ns = header.queue_ns + header.server_ns;
    stats.wire_ns.fetch_add(total_ns > known_ns ? total_ns - known_ns : 0, relaxed);
  }

  Channel& channel_;
  Backend& backend_;
  const ServeContext& context_;
  OpStatsTable& op_stats_;
  RequestHeader request_;            // of the message at hand, a private copy
  std::vector<TensorDesc> results_;  // what it gives
  std::string stats_text_;
  std::uint64_t received_ns_ = 0;
};

}  // namespace

Status serve(Channel& channel, Backend& backend, const ServeContext& context,
             OpStatsTable& op_stats) {
  return Server(channel, backend, context, op_stats).run();
}

}  // namespace airlock
