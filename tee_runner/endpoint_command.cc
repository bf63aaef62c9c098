#include <poll.h>

#include <atomic>
#include <utility>

#include "base/log.h"
#include "base/sink.h"
#include "base/thread.h"
#include "base/wake_event.h"
#include "tee_runner/serve/serve_command.h"
#include "tee_runner/text_commands.h"
#include "tee_runner/text_session.h"

namespace airlock {
namespace {

Status run_to_its_end(const EndpointOptions& options, StatsReporter& reporter) {
  WakeEvent end;
  RETURN_IF_ERROR(end.check());
  // While it starts a signal ends it at once, as nobody was answered; then the first one drains,
  // and a second one ends the program as it is.
  std::atomic<bool> is_started{false};
  std::atomic<bool> is_draining{false};
  const InterruptGuard guard(reporter, [&](int) {
    if (!is_started) {
      log_info("stopped while it was starting");
      exit_at_once(0);
    }
    if (is_draining.exchange(true)) return false;
    end.set();
    return true;
  });
  keep_words_private();
  ASSIGN_OR_RETURN(auto model, open_served_model(options.model, options.serve.model_name,
                                                 options.chat_template));
  std::atomic<bool> has_given_up{false};
  std::unique_ptr<TextSession> session;
  ServeWork work;
  work.start = [&](const ServeWork::Say& say) -> Result<Engine*> {
    EngineLimits limits{options.max_sequences, options.max_queue};
    limits.server_patience = from_seconds(options.await_server_seconds);
    limits.waits = say;
    limits.gave_up = [&](const Status&) {
      has_given_up = true;
      end.set();
    };
    ASSIGN_OR_RETURN(session, TextSession::start(options, reporter, limits));
    is_started = true;
    return &session->engine();
  };
  work.await_end = [&] {
    pollfd waiting{end.fd(), POLLIN, 0};
    while (::poll(&waiting, 1, -1) <= 0) {
    }
  };
  work.loss = [&] { return has_given_up ? session->engine().health() : Status(); };
  const Status served = serve(options.serve, std::move(model), work);
  // A server that lied is said, also where it was asked to end; one that went then is no loss.
  const Status lost = work.loss();
  return lost.code() == StatusCode::kMismatch ? lost : served;
}

}  // namespace

Status run(const EndpointOptions& options, StatsReporter& reporter) {
  const Status ended = without_exceptions([&] { return run_to_its_end(options, reporter); });
  // At the start and later: not with the exit code of a bad file, which a person must mend, as a
  // new start may help.
  return ended.code() == StatusCode::kInternal ? Status(StatusCode::kDevice, ended.message())
                                               : ended;
}

}  // namespace airlock
