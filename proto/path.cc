#include "proto/path.h"

namespace airlock {

Result<MessagePlan> plan_message(const PathPolicy& policy,
                                 std::span<const std::size_t> tensor_bytes) {
  if (tensor_bytes.size() > limits::kMaxTensorsPerMessage) {
    return Status(StatusCode::kInvalidInput, "a message of {} tensors, more than {}",
                  tensor_bytes.size(), limits::kMaxTensorsPerMessage);
  }
  MessagePlan plan;
  plan.header_path = policy.header_path();
  std::size_t total_bytes = 0;
  for (const std::size_t bytes : tensor_bytes) {
    if (bytes > limits::kMaxTensorBytes || total_bytes + bytes > limits::kMaxMessageBytes) {
      return Status(
          StatusCode::kInvalidInput,
          "a tensor of {} bytes takes a message over its limits of {} bytes each and {} in all",
          bytes, limits::kMaxTensorBytes, limits::kMaxMessageBytes);
    }
    total_bytes += bytes;
    const bool by_ring =
        policy.carries(Path::kRing, bytes) && plan.ring_slots + 1 <= policy.slot_count / 2;
    plan.ring_slots += by_ring ? 1 : 0;
    plan.planned[plan.tensor_count++] = {bytes, by_ring ? Path::kRing : Path::kZmq};
  }
  if (policy.has_ring) plan.ring_slots = std::max<std::size_t>(1, plan.ring_slots);
  return plan;
}

}  // namespace airlock
