#include "tee_runner/serve/serve_command.h"

#include <fmt/format.h>
#include <signal.h>

#include <thread>
#include <utility>

#include "base/log.h"
#include "base/process_limits.h"
#include "runtime/program/program.h"
#include "tee_runner/serve/http_server.h"
#include "tee_runner/serve/late_engine.h"

namespace airlock {
namespace {

/// Beside those of its clients: the listener, and what waits and wakes.
constexpr std::size_t kOwnDescriptors = 16;
/// How soon a loss ends the notice.
constexpr std::chrono::milliseconds kLook{100};

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

Status serve(const ServeOptions& options, std::shared_ptr<const ServedModel> model,
             const ServeWork& work) {
  ASSIGN_OR_RETURN(const HttpSettings settings, http_settings(options));
  RETURN_IF_ERROR(ensure_descriptors(settings.max_connections + kOwnDescriptors));
  LateEngine engine;
  // Before what may take minutes: an address that is taken is found at once, and whoever asks for
  // /readyz hears how far it is.
  ASSIGN_OR_RETURN(const auto server, HttpServer::start(settings, std::move(model), engine));
  say_who_may_ask(settings);
  log_info("starting: /readyz at " + server->url() + " is 503 until the first op was done");
  // A reader that is gone is no reason to end: clients know the address.
  ::signal(SIGPIPE, SIG_IGN);
  ASSIGN_OR_RETURN(Engine* const made,
                   work.start([&engine](const Status& why) { engine.say(why); }));
  engine.set(*made);
  RETURN_IF_ERROR(print("ready " + server->url() + "\n"));
  work.await_end();
  const Status end = work.loss();
  const Deadline drained = Deadline::after(from_seconds(options.drain_seconds));
  server->leave();
  if (end.ok() && options.notice_seconds > 0) {
    log_info(
        fmt::format("/readyz is 503; requests are answered for {} s more", options.notice_seconds));
    const Deadline notice = Deadline::after(from_seconds(options.notice_seconds));
    while (!notice.expired() && work.loss().ok())
      std::this_thread::sleep_for(notice.slice(kLook).remaining());
  }
  log_info("no new requests from here on");
  if (!server->drain(drained))
    log_warning(
        "answers, or their clients, took longer than --drain-seconds: what was under way was "
        "cancelled");
  return end;
}

}  // namespace airlock
