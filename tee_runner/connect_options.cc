#include "tee_runner/connect_options.h"

#include "runtime/rpc/endpoint.h"

namespace airlock {

ConnectOptions connect_options(const ConnectionOptions& options) {
  ConnectOptions connect;
  connect.endpoint = options.endpoint.empty() ? default_endpoint().text() : options.endpoint;
  connect.ring = options.ring;
  connect.timeout = options.timeout;
  return connect;
}

}  // namespace airlock
