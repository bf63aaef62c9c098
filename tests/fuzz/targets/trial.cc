#include "base/check.h"
#include "proto/calibration.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

constexpr std::size_t kMost = 10485760;

std::vector<Bytes> seeds() {
  Trial ring;
  ring.bytes = 65536;
  ring.by_ring = true;
  Trial pool;
  pool.bytes = 65536;
  pool.place = PoolPlace::at(0);
  pool.reply_place = PoolPlace::at(1 << 20);
  Trial end;
  end.path_limit = 65536;
  return {encode(ring), encode(pool), encode(end)};
}

bool run(std::span<const std::byte> input) {
  const auto trial = decode_trial(input, kMost);
  if (!trial.ok()) {
    CHECK(trial.status().code() == StatusCode::kProtocolError);
    check_refusal(trial.status());
    return false;
  }
  CHECK((trial->bytes == 0) == (trial->path_limit != 0));
  CHECK(trial->bytes < kMost && trial->path_limit <= kMost);
  CHECK(decode_trial(encode(*trial), kMost).value() == *trial);
  const PathPolicy policy{true, kMost, 8, true};
  CHECK(plan_trial(policy, *trial).ok());
  CHECK(plan_trial_reply(policy, *trial).ok());
  return true;
}

}  // namespace

constinit const Target kTrial = {"trial", seeds, run};

}  // namespace airlock::fuzz
