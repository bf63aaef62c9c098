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
    Path path = policy.carries(Path::kPool, bytes) ? Path::kPool : Path::kZmq;
    if (by_ring) path = Path::kRing;
    plan.planned[plan.tensor_count++] = {bytes, path, {}};
  }
  if (policy.has_ring) plan.ring_slots = std::max<std::size_t>(1, plan.ring_slots);
  return plan;
}

Status place_in_pool(MessagePlan& plan, std::span<const PoolPlace> places) {
  if (!places.empty() && places.size() != plan.tensor_count) {
    return {StatusCode::kProtocolError, "{} places in the pool for {} tensors", places.size(),
            plan.tensor_count};
  }
  for (std::size_t i = 0; i < plan.tensor_count; ++i) {
    MessagePlan::Tensor& tensor = plan.planned[i];
    const PoolPlace place = places.empty() ? PoolPlace() : places[i];
    if (tensor.path == Path::kPool && place.is_nowhere()) {
      tensor.path = Path::kZmq;
      ++plan.fallbacks;
    } else if (tensor.path == Path::kPool) {
      tensor.place = place;
    } else if (!place.is_nowhere()) {
      return {StatusCode::kProtocolError, "tensor {} has a place in the pool and goes by the {}", i,
              name_of(tensor.path)};
    }
  }
  return {};
}

Result<MessagePlan> plan_without_pool(const PathPolicy& policy,
                                      std::span<const std::size_t> tensor_bytes) {
  ASSIGN_OR_RETURN(MessagePlan plan, plan_message(policy, tensor_bytes));
  RETURN_IF_ERROR(place_in_pool(plan, {}));
  return plan;
}

}  // namespace airlock
