#include "tee_runner/connection_options.h"

#include "runtime/program/connection_options.h"

namespace airlock {

void declare_connection(const CommandOptions& command, ConnectionOptions& options) {
  constexpr std::int64_t kMostMs = 24LL * 3600 * 1000;
  declare_endpoint(command, options.endpoint);
  command.number("--timeout-ms", options.timeout, std::int64_t{1}, kMostMs,
                 "longest time without a connection or a sign of life (5000)");
  command.number("--op-timeout-ms", options.op_timeout, std::int64_t{1}, kMostMs,
                 "longest time of one op (300000)");
  declare_ring(command, options.ring, RingSide::kRunner);
}

}  // namespace airlock
