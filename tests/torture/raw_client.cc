#include "tests/torture/raw_client.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "proto/message.h"

namespace airlock::torture {
namespace {

/// What it leases of the pool, and fills: memory that its end has to give back.
constexpr PoolWish kWish{{1 << 20, 1 << 20, 1 << 20}};
constexpr std::byte kMark{0xbd};

}  // namespace

Result<ControlFrame> RawClient::next_frame(Deadline deadline) {
  Deadline next_sign = Deadline::after(kSignInterval);
  for (;;) {
    ASSIGN_OR_RETURN(auto frame, control_->receive());
    if (frame) return std::move(*frame);
    if (deadline.expired()) return Status(StatusCode::kDeadlineExceeded, "no control message");
    if (next_sign.expired()) {
      (void)send_sign();
      next_sign = Deadline::after(kSignInterval);
    }
    pollfd waiting{control_->fd(), POLLIN, 0};
    (void)::poll(&waiting, 1, 20);
  }
}

Result<ControlMessage> RawClient::next_message(std::vector<UniqueFd>* descriptors) {
  const Deadline deadline = Deadline::after(kPatience);
  for (;;) {
    ASSIGN_OR_RETURN(ControlFrame frame, next_frame(deadline));
    ASSIGN_OR_RETURN(ControlMessage message, decode_control(frame.bytes));
    if (std::holds_alternative<Sign>(message)) continue;
    if (const auto* refusal = std::get_if<Refusal>(&message))
      return Status(StatusCode::kUnavailable, "refused: {}", refusal->message);
    if (const auto* goodbye = std::get_if<Goodbye>(&message))
      return Status(StatusCode::kUnavailable, "ended: {}", goodbye->reason);
    if (descriptors != nullptr) *descriptors = std::move(frame.descriptors);
    return message;
  }
}

Status RawClient::greet(const std::string& endpoint, RingChoice ring, std::uint32_t path_limit) {
  ASSIGN_OR_RETURN(endpoint_, parse_endpoint(endpoint));
  ASSIGN_OR_RETURN(auto connection,
                   ControlConnection::connect(endpoint_, Deadline::after(kPatience)));
  control_.emplace(std::move(connection));
  reached_(ClientStep::kConnected);
  const Hello hello{
      fmt::format("bad_client pid {}", ::getpid()), {ring, 0, 0}, "", 0, kWish, path_limit};
  RETURN_IF_ERROR(control_->send(hello));
  reached_(ClientStep::kGreeted);
  ASSIGN_OR_RETURN(const ControlMessage message, next_message(&descriptors_));
  const auto* welcome = std::get_if<Welcome>(&message);
  if (welcome == nullptr) return {StatusCode::kProtocolError, "no welcome"};
  welcome_ = *welcome;
  reached_(ClientStep::kWelcomed);
  return {};
}

Status RawClient::await_door() {
  ASSIGN_OR_RETURN(const ControlMessage message, next_message());
  const auto* socket = std::get_if<DataSocket>(&message);
  if (socket == nullptr) return {StatusCode::kProtocolError, "no data socket"};
  ASSIGN_OR_RETURN(door_, session_endpoint(endpoint_, socket->endpoint));
  return {};
}

Status RawClient::knock() {
  if (door_.empty()) RETURN_IF_ERROR(await_door());
  ASSIGN_OR_RETURN(const Endpoint door, parse_endpoint(door_));
  ASSIGN_OR_RETURN(knocking_, connect_data(door));
  reached_(ClientStep::kKnocked);
  return {};
}

Status RawClient::attach() {
  ASSIGN_OR_RETURN(channel_, SessionChannel::attach(welcome_, descriptors_, life_));
  reached_(ClientStep::kMapped);
  if (door_.empty()) RETURN_IF_ERROR(await_door());
  RETURN_IF_ERROR(channel_->connect(door_));
  reached_(ClientStep::kTokenSent);
  for (const Deadline deadline = Deadline::after(kPatience); !deadline.expired();) {
    if (channel_->lost()) RETURN_IF_ERROR(channel_->connect(door_));
    auto frame = next_frame(deadline.slice(kSignInterval));
    if (frame.status().code() == StatusCode::kDeadlineExceeded) continue;
    RETURN_IF_ERROR(frame.status());
    ASSIGN_OR_RETURN(const ControlMessage message, decode_control(frame->bytes));
    if (std::holds_alternative<Sign>(message)) continue;
    if (const auto* socket = std::get_if<DataSocket>(&message)) {
      ASSIGN_OR_RETURN(door_, session_endpoint(endpoint_, socket->endpoint));
      RETURN_IF_ERROR(channel_->connect(door_));
      continue;
    }
    const auto* attached = std::get_if<Attached>(&message);
    if (attached == nullptr) return {StatusCode::kUnavailable, "the server did not attach"};
    RETURN_IF_ERROR(channel_->take_lease(*attached, frame->descriptors, kWish));
    for (const auto bytes : channel_->pool()->pool_map().spans()) std::ranges::fill(bytes, kMark);
    RETURN_IF_ERROR(channel_->open());
    reached_(ClientStep::kAttached);
    return {};
  }
  return {StatusCode::kDeadlineExceeded, "never attached"};
}

Status RawClient::publish(const OpSpec& spec, Deadline deadline) {
  std::vector<std::size_t> sizes;
  for (const TensorDesc& input : spec.inputs) sizes.push_back(input.bytes());
  ASSIGN_OR_RETURN(message_, channel_->channel().prepare(sizes, deadline));
  for (std::size_t i = 0; i < sizes.size(); ++i)
    std::memset(message_->tensor(i).data(), 0, sizes[i]);
  RETURN_IF_ERROR(
      channel_->channel().send(*message_, encode(RequestHeader{next_id_++, spec}), deadline));
  message_.reset();
  reached_(ClientStep::kPublished);
  return {};
}

Status RawClient::publish_in_pool(const OpSpec& spec, Deadline deadline) {
  std::vector<PoolPlace> places;
  const auto take = [&](PoolUse use, std::size_t bytes) -> Status {
    auto block = channel_->pool()->take(use, bytes);
    if (!block) return {StatusCode::kInternal, "no room in the lease"};
    places.push_back(block->place());
    blocks_.push_back(std::move(*block));
    return {};
  };
  const std::vector<std::size_t> sizes = sizes_of(spec.inputs);
  for (const std::size_t bytes : sizes) RETURN_IF_ERROR(take(PoolUse::kInput, bytes));
  RETURN_IF_ERROR(take(PoolUse::kOutput, sizes[0]));
  result_places_ = {places.back()};
  ASSIGN_OR_RETURN(const MessagePlan plan,
                   plan_in_pool(channel_->channel().policy(), sizes,
                                std::span<const PoolPlace>(places).first(sizes.size())));
  if (!plan.uses(Path::kPool)) return {StatusCode::kInternal, "nothing goes by the pool"};
  reached_(ClientStep::kAllocated);
  ASSIGN_OR_RETURN(message_, channel_->channel().claim(plan, deadline));
  for (std::size_t i = 0; i < sizes.size(); ++i)
    std::memset(message_->tensor(i).data(), 0, sizes[i]);
  reached_(ClientStep::kFilled);
  RETURN_IF_ERROR(channel_->channel().send(
      *message_, encode(RequestHeader{next_id_++, spec, std::move(places)}), deadline));
  message_.reset();
  reached_(ClientStep::kPublished);
  return {};
}

void RawClient::give_places_back() {
  blocks_.clear();
  result_places_.clear();
  reached_(ClientStep::kFreed);
}

Result<std::unique_ptr<ReceivedMessage>> RawClient::receive() {
  const AcceptPlan accept = [this](std::span<const std::byte> header) -> Result<MessagePlan> {
    ASSIGN_OR_RETURN(const ResponseHeader response, decode_response(header));
    return plan_in_pool(channel_->channel().policy(), sizes_of(response.results), result_places_);
  };
  return channel_->channel().receive(accept, Deadline::after(kPatience));
}

Status RawClient::say_goodbye() {
  RETURN_IF_ERROR(control_->send(Goodbye{"as bad as it gets"}));
  reached_(ClientStep::kGoodbye);
  return {};
}

OpSpec product(std::int64_t m, std::int64_t k, std::int64_t n) {
  return matmul_spec({DType::kF32, {1, m, k}}, {DType::kF32, {1, k, n}}, Transpose::kNone,
                     DType::kF32);
}

}  // namespace airlock::torture
