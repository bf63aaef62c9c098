#include "tee_runner/serve/serve_command.h"

#include <signal.h>

#include <chrono>
#include <utility>

#include "base/log.h"
#include "base/process_limits.h"
#include "runtime/program/program.h"
#include "tee_runner/serve/http_server.h"

namespace airlock {
namespace {

/// Beside those of its clients: the listener, and what waits and wakes.
constexpr std::size_t kOwnDescriptors = 16;

void say_who_may_ask(const HttpSettings& settings) {
  if (settings.tls) log_info("certificate SHA-256: " + settings.tls->fingerprint);
  if (settings.keys) return;
  if (settings.is_loopback) {
    log_info("no --api-keys: every program on this machine may ask");
  } else {
    log_warning("no --api-keys: whoever reaches this address may ask");
  }
}

}  // namespace

Status serve(const ServeOptions& options, std::shared_ptr<const ServedModel> model, Engine& engine,
             const std::function<void()>& await_end) {
  ASSIGN_OR_RETURN(const HttpSettings settings, http_settings(options));
  RETURN_IF_ERROR(ensure_descriptors(settings.max_connections + kOwnDescriptors));
  ASSIGN_OR_RETURN(const auto server, HttpServer::start(settings, std::move(model), engine));
  say_who_may_ask(settings);
  // A reader that is gone is no reason to end: clients know the address.
  ::signal(SIGPIPE, SIG_IGN);
  RETURN_IF_ERROR(print("ready " + server->url() + "\n"));
  await_end();
  log_info("no new requests from here on");
  if (!server->drain(Deadline::after(std::chrono::milliseconds(options.drain_ms))))
    log_warning("answers under way took longer than --drain-ms and were cancelled");
  return {};
}

}  // namespace airlock
