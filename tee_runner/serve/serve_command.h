#pragma once

#include <functional>
#include <memory>

#include "base/status.h"
#include "tee_runner/generate/engine.h"
#include "tee_runner/serve/serve_options.h"
#include "tee_runner/serve/served_model.h"

namespace airlock {

/// `tee_runner serve` once there are a model and an engine: listens, prints "ready URL" on stdout,
/// and answers until `await_end` returns; then drains. Ok then, also where answers had to be
/// cancelled.
Status serve(const ServeOptions& options, std::shared_ptr<const ServedModel> model, Engine& engine,
             const std::function<void()>& await_end);

}  // namespace airlock
