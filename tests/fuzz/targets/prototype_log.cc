#include "tests/fuzz/log_target.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

std::vector<Bytes> seeds() { return bytes_of(valid_logs()); }

bool run(std::span<const std::byte> input) {
  const Status status = import_anything(text_of(input));
  if (!status.ok()) check_refusal(status);
  return status.ok();
}

}  // namespace

constinit const Target kPrototypeLog = {"prototype_log", seeds, run};

}  // namespace airlock::fuzz
