#include "proto/path.h"

#include <utility>

namespace airlock {

namespace {

void put_behind_header(MessagePlan& plan, MessagePlan::Tensor& tensor, const PathPolicy& policy) {
  const std::size_t at =
      (plan.inline_bytes + limits::kInlineAlignment - 1) & ~(limits::kInlineAlignment - 1);
  if (tensor.bytes >= policy.inline_bytes || at + tensor.bytes > policy.inline_room) return;
  // What is not to take the ring does not take it in this way either.
  if (policy.has_ring && !policy.carries(Path::kRing, tensor.bytes)) return;
  tensor.is_inline = true;
  tensor.inline_at = at;
  tensor.path = plan.header_path;
  plan.inline_bytes = at + tensor.bytes;
  plan.has_inline = true;
}

Status fill(MessagePlan& plan, const PathPolicy& policy,
            std::span<const std::size_t> tensor_bytes) {
  if (tensor_bytes.size() > limits::kMaxTensorsPerMessage) {
    return {StatusCode::kInvalidInput, "a message of {} tensors, more than {}", tensor_bytes.size(),
            limits::kMaxTensorsPerMessage};
  }
  plan.header_path = policy.header_path();
  std::size_t total_bytes = 0;
  for (const std::size_t bytes : tensor_bytes) {
    if (bytes > limits::kMaxTensorBytes || total_bytes + bytes > limits::kMaxMessageBytes) {
      return {StatusCode::kInvalidInput,
              "a tensor of {} bytes takes a message over its limits of {} bytes each and {} in all",
              bytes, limits::kMaxTensorBytes, limits::kMaxMessageBytes};
    }
    total_bytes += bytes;
    MessagePlan::Tensor& tensor = plan.planned[plan.tensor_count++];
    tensor.bytes = bytes;
    put_behind_header(plan, tensor, policy);
  }
  if (policy.has_ring && plan.has_inline) plan.ring_slots = 1;
  for (std::size_t i = 0; i < plan.tensor_count; ++i) {
    MessagePlan::Tensor& tensor = plan.planned[i];
    if (tensor.is_inline) continue;
    const bool by_ring =
        policy.carries(Path::kRing, tensor.bytes) && plan.ring_slots + 1 <= policy.slot_count / 2;
    plan.ring_slots += by_ring ? 1 : 0;
    tensor.path = policy.carries(Path::kPool, tensor.bytes) ? Path::kPool : Path::kZmq;
    if (by_ring) tensor.path = Path::kRing;
  }
  if (policy.has_ring) plan.ring_slots = std::max<std::size_t>(1, plan.ring_slots);
  return {};
}

}  // namespace

// One plan is made for each message at each end: where it is returned by name alone, nobody copies
// it.

Result<MessagePlan> plan_message(const PathPolicy& policy,
                                 std::span<const std::size_t> tensor_bytes) {
  Result<MessagePlan> plan{MessagePlan()};
  if (Status filled = fill(*plan, policy, tensor_bytes); !filled.ok()) plan = std::move(filled);
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

bool meet_in_pool(const MessagePlan& one, const MessagePlan& other) {
  for (const MessagePlan::Tensor& a : one.tensors()) {
    if (a.path != Path::kPool) continue;
    for (const MessagePlan::Tensor& b : other.tensors()) {
      if (b.path == Path::kPool && a.place.offset() < b.place.offset() + b.bytes &&
          b.place.offset() < a.place.offset() + a.bytes) {
        return true;
      }
    }
  }
  return false;
}

Result<MessagePlan> plan_in_pool(const PathPolicy& policy,
                                 std::span<const std::size_t> tensor_bytes,
                                 std::span<const PoolPlace> places) {
  Result<MessagePlan> plan = plan_message(policy, tensor_bytes);
  if (!plan.ok()) return plan;
  if (Status placed = place_in_pool(*plan, places); !placed.ok()) plan = std::move(placed);
  return plan;
}

}  // namespace airlock
