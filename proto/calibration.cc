#include "proto/calibration.h"

#include "proto/wire.h"

namespace airlock {
namespace {

void fields(auto& wire, auto& trial) {
  wire.body("a trial", 5);
  wire.number("its bytes", trial.bytes);
  wire.number("whether it takes the ring", trial.by_ring);
  wire.number("its place", trial.place.number);
  wire.number("its reply's place", trial.reply_place.number);
  wire.number("the path limit", trial.path_limit);
}

Result<MessagePlan> plan(const PathPolicy& policy, const Trial& trial, PoolPlace place) {
  PathPolicy tried = policy;
  tried.inline_bytes = 0;
  if (!trial.by_ring) tried.limit_bytes = 0;
  const auto bytes = static_cast<std::size_t>(trial.bytes);
  const std::size_t count = bytes == 0 ? 0 : 1;
  return plan_in_pool(tried, {&bytes, count}, {&place, trial.by_ring ? 0 : count});
}

}  // namespace

std::vector<std::byte> encode(const Trial& trial) {
  WireWriter writer;
  fields(writer, trial);
  return std::move(writer).take();
}

Result<Trial> decode_trial(std::span<const std::byte> header, std::size_t most) {
  Trial trial;
  WireReader reader(header);
  fields(reader, trial);
  const bool is_end = trial.bytes == 0;
  const bool has_places = !trial.place.is_nowhere() || !trial.reply_place.is_nowhere();
  reader.demand(trial.bytes < most, "a trial of {} bytes, expected less than {}", trial.bytes,
                most);
  reader.demand(!has_places || !(is_end || trial.by_ring), "a trial of the ring has a place");
  reader.demand(!has_places || trial.bytes >= limits::kMinPoolTensorBytes,
                "a trial of {} bytes has a place in the pool", trial.bytes);
  reader.demand(trial.place.is_nowhere() == trial.reply_place.is_nowhere(),
                "a trial has one place of two");
  reader.demand(is_end == (trial.path_limit != 0) && trial.path_limit <= most,
                "a path limit of {}, of {} bytes", trial.path_limit, most);
  if (const Status end = reader.finish(); !end.ok()) return end.with_context("trial");
  return trial;
}

Result<MessagePlan> plan_trial(const PathPolicy& policy, const Trial& trial) {
  return plan(policy, trial, trial.place);
}

Result<MessagePlan> plan_trial_reply(const PathPolicy& policy, const Trial& trial) {
  return plan(policy, trial, trial.reply_place);
}

}  // namespace airlock
