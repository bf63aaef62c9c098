#pragma once

#include <functional>
#include <memory>

#include "base/status.h"
#include "tee_runner/generate/engine.h"
#include "tee_runner/serve/serve_options.h"
#include "tee_runner/serve/served_model.h"

namespace airlock {

/// What `serve` answers with, and until when. Called on its thread: start() and await_end(), once
/// each, then loss().
struct ServeWork {
  /// Loads, connects and tries, and gives an engine that outlives the call of serve(). Meanwhile
  /// /readyz is 503, with what was `said` last.
  using Say = std::function<void(const Status& why)>;
  std::function<Result<Engine*>(const Say& say)> start;
  /// Waits until an end is asked for, or there is a loss.
  std::function<void()> await_end;
  /// Why there is nothing left to answer with, for good; ok while there is.
  std::function<Status()> loss;
};

/// `tee_runner serve` with its conversations' model (tokenizer and template): listens from the
/// start on, prints "ready URL" on stdout once there is an engine, and answers until the end is
/// there; then drains. Ok then, also where answers had to be cancelled; else what `work` said.
Status serve(const ServeOptions& options, std::shared_ptr<const ServedModel> model,
             const ServeWork& work);

}  // namespace airlock
