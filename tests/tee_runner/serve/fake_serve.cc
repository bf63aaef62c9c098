// `tee_runner serve` over an engine without a model: each answer repeats its prompt. For scripts.

#include <signal.h>

#include "runtime/program/command_line.h"
#include "runtime/program/program.h"
#include "tee_runner/serve/serve_command.h"
#include "tests/tee_runner/serve/fake_engine.h"
#include "tests/tee_runner/serve/tiny_model.h"

namespace airlock {
namespace {

struct Options : ServeOptions {
  std::string model;
  bool endless = false;
};

Result<std::optional<Options>> parse(int argc, const char* const* argv) {
  CommandLine line("fake_serve", "tee_runner serve over an engine that repeats prompts.");
  Options options;
  declare_serve(line.options(), options);
  line.options().text("--model", options.model, "folder with a tokenizer and a chat template");
  line.options().flag("--endless", options.endless, "answers end at max_tokens alone");
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  if (!asked) return std::optional<Options>();
  RETURN_IF_ERROR(check(options));
  return std::optional(options);
}

Status run(const Options& options) {
  const UniqueFd signals = take_signals({SIGINT, SIGTERM});
  std::shared_ptr<const ServedModel> model = tiny_model();
  if (!options.model.empty()) {
    ASSIGN_OR_RETURN(model, open_served_model(options.model, options.model_name, std::nullopt));
  }
  FakeEngine::Options engine_options{.vocab = model->tokenizer()->vocab_size(),
                                     .endless = options.endless};
  // No faster than a browser reads: one that lags is given up.
  if (options.endless) engine_options.pause = std::chrono::milliseconds(2);
  FakeEngine engine(engine_options);
  ServeWork work;
  work.start = [&engine](const ServeWork::Say&) -> Result<Engine*> { return &engine; };
  work.await_end = [&signals] {
    while (!signalled(signals.get(), Deadline::after(std::chrono::hours(1)))) {
    }
  };
  work.loss = [] { return Status(); };
  return serve(options, model, work);
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  return airlock::run_program(
      "fake_serve", [&] { return airlock::parse(argc, argv); },
      [](const airlock::Options& options) { return airlock::run(options); });
}
