#include "proto/path.h"
#include "tests/fuzz/codec_target.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

std::vector<Bytes> seeds() {
  std::vector<Bytes> all;
  for (const RequestHeader& request : valid_requests()) all.push_back(encode(request));
  return all;
}

bool run(std::span<const std::byte> input) {
  const auto request = decode_any_request(input);
  if (!request.ok()) {
    check_refusal(request.status());
    return false;
  }
  if (const auto results = op_results(request->spec, kFuzzDims); !results.ok())
    check_refusal(results.status());
  // What a server goes on with: the way of each tensor.
  const auto plan = plan_message({true, 65536, 8}, sizes_of(request->spec.inputs));
  CHECK(plan.ok() && plan->ring_slots >= 1 && plan->ring_slots <= 4);
  return true;
}

}  // namespace

constinit const Target kRequest = {"request", seeds, run};

}  // namespace airlock::fuzz
