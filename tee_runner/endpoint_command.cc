#include <poll.h>

#include <atomic>
#include <utility>

#include "base/wake_event.h"
#include "tee_runner/serve/serve_command.h"
#include "tee_runner/text_commands.h"
#include "tee_runner/text_session.h"

namespace airlock {

Status run(const EndpointOptions& options, StatsReporter& reporter) {
  keep_words_private();
  ASSIGN_OR_RETURN(auto model, open_served_model(options.model, options.serve.model_name,
                                                 options.chat_template));
  WakeEvent end;
  RETURN_IF_ERROR(end.check());
  EngineLimits limits{options.max_sequences, options.max_queue, /*reconnects=*/true};
  limits.gave_up = [&end](const Status&) { end.set(); };
  ASSIGN_OR_RETURN(const auto session, TextSession::start(options, reporter, limits));
  // The first signal drains; a second one ends the program at once.
  std::atomic<bool> is_draining{false};
  const InterruptGuard guard(reporter, [&end, &is_draining](int) {
    if (is_draining.exchange(true)) return false;
    end.set();
    return true;
  });
  const Status served = serve(options.serve, std::move(model), session->engine(), [&end] {
    pollfd waiting{end.fd(), POLLIN, 0};
    while (::poll(&waiting, 1, -1) <= 0) {
    }
  });
  const Status health = session->engine().health();
  return health.code() == StatusCode::kMismatch ? health : served;
}

}  // namespace airlock
