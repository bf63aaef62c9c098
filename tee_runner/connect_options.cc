#include "tee_runner/connect_options.h"

#include "runtime/rpc/endpoint.h"

namespace airlock {

ConnectOptions connect_options(const ConnectionOptions& options) {
  ConnectOptions connect;
  connect.endpoint = options.endpoint.empty() ? default_endpoint().text() : options.endpoint;
  connect.ring = options.ring == RunnerRing::kOn    ? RingChoice::kOn
                 : options.ring == RunnerRing::kOff ? RingChoice::kOff
                                                    : RingChoice::kAuto;
  connect.want_slot_count = options.slot_count;
  connect.want_slot_bytes = options.slot_bytes;
  connect.timeout = options.timeout;
  return connect;
}

}  // namespace airlock
