// Opens a session and then does nothing until its standard input ends: bench/idle measures what
// that costs.
#include <unistd.h>

#include <cstdio>
#include <string>

#include "base/log.h"
#include "runtime/rpc/client.h"

int main(int argc, char** argv) {
  airlock::set_log_name("idle_session");
  if (argc != 2) {
    std::fputs("usage: idle_session ENDPOINT\n", stderr);
    return airlock::exit_code(airlock::StatusCode::kUsage);
  }
  airlock::ConnectOptions options;
  options.endpoint = argv[1];
  auto session = airlock::ClientSession::connect(options);
  if (!session.ok()) {
    airlock::log_error(session.status().to_string());
    return airlock::exit_code(session.status().code());
  }
  std::puts("ready");
  std::fflush(stdout);
  char byte = 0;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
  session.value()->close();
  return 0;
}
