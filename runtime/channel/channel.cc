#include "runtime/channel/channel.h"

namespace airlock {

Result<std::unique_ptr<Message>> Channel::prepare(std::span<const std::size_t> tensor_bytes,
                                                  Deadline deadline) {
  ASSIGN_OR_RETURN(const MessagePlan plan, plan_in_pool(policy(), tensor_bytes, {}));
  return claim(plan, deadline);
}

Result<std::unique_ptr<ReceivedMessage>> Channel::receive(const Accept& accept, Deadline deadline) {
  const auto plan = [&](std::span<const std::byte> header) -> Result<MessagePlan> {
    ASSIGN_OR_RETURN(const auto sizes, accept(header));
    auto made = plan_in_pool(policy(), sizes, {});
    if (!made.ok()) made = Status(StatusCode::kProtocolError, made.status().message());
    return made;
  };
  return receive(AcceptPlan(plan), deadline);
}

}  // namespace airlock
