#include "pool/shape.h"

#include <fmt/format.h>

#include <algorithm>

namespace airlock {

std::uint64_t PoolShape::slot_count() const {
  std::uint64_t count = spare_slots;
  for (const std::uint32_t own : slots) count += own;
  return count;
}

std::uint64_t PoolShape::quota(PoolUse use) const {
  constexpr std::uint64_t kSessions = 4;
  const bool has_any = slots[use] + spare_slots > 0;
  return std::max<std::uint64_t>(has_any ? 1 : 0, slots[use] / kSessions);
}

std::string PoolShape::to_string() const {
  constexpr std::uint64_t kMiB = 1 << 20;
  const std::string size = slot_bytes % kMiB == 0 ? fmt::format("{} MiB", slot_bytes / kMiB)
                                                  : fmt::format("{} KiB", slot_bytes / 1024);
  std::string text = fmt::format("{} slots of {}:", slot_count(), size);
  for (const PoolUse use : kValuesOf<PoolUse>)
    text += fmt::format(" {} {},", slots[use], name_of(use));
  text.pop_back();
  if (spare_slots > 0) text += fmt::format(", {} spare", spare_slots);
  return text;
}

Status check_shape(const PoolShape& shape) {
  const std::uint64_t slot_bytes = shape.slot_bytes;
  if (slot_bytes < limits::kMinPoolSlotBytes || slot_bytes > limits::kMaxPoolSlotBytes ||
      slot_bytes % limits::kPoolPageBytes != 0) {
    return {StatusCode::kInvalidInput,
            "a pool's slots have a multiple of {} bytes from {} to {}, not {}",
            limits::kPoolPageBytes,
            limits::kMinPoolSlotBytes,
            limits::kMaxPoolSlotBytes,
            slot_bytes};
  }
  const std::uint64_t count = shape.slot_count();
  if (count == 0 || count > limits::kMaxPoolSlots) {
    return {StatusCode::kInvalidInput, "a pool has 1 to {} slots, not {}", limits::kMaxPoolSlots,
            count};
  }
  if (shape.bytes() <= limits::kMaxPoolBytes) return {};
  return {StatusCode::kInvalidInput, "a pool has at most {} bytes, not {}", limits::kMaxPoolBytes,
          shape.bytes()};
}

PoolShape shape_of(PoolProfile profile) {
  constexpr std::uint64_t kMiB = 1 << 20;
  switch (profile) {
    case PoolProfile::kLow:
      return {64 * kMiB, {{2, 2, 2}}, 2};
    case PoolProfile::kSmall:
      return {128 * kMiB, {{2, 2, 4}}, 0};
    case PoolProfile::kStandard:
      return {256 * kMiB, {{4, 4, 8}}, 0};
    case PoolProfile::kLarge:
      return {256 * kMiB, {{8, 8, 16}}, 0};
    case PoolProfile::kHuge:
      return {512 * kMiB, {{8, 8, 16}}, 0};
  }
  return {};
}

Result<PoolShape> shape_of_bytes(std::uint64_t bytes) {
  PoolShape shape{0, {{4, 4, 8}}, 0};
  // Whole huge pages, where a slot has one.
  constexpr std::uint64_t kHuge = 2 << 20;
  const std::uint64_t unit = bytes / 16 >= kHuge ? kHuge : limits::kPoolPageBytes;
  shape.slot_bytes = bytes / 16 / unit * unit;
  RETURN_IF_ERROR(check_shape(shape));
  return shape;
}

std::optional<PoolProfile> choose_profile(std::uint64_t available_bytes) {
  std::optional<PoolProfile> chosen;
  for (const PoolProfile profile : kValuesOf<PoolProfile>) {
    if (shape_of(profile).bytes() <= available_bytes / kAutoShare) chosen = profile;
  }
  return chosen;
}

}  // namespace airlock
