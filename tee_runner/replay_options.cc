#include "tee_runner/replay_options.h"

#include "base/file.h"
#include "proto/limits.h"
#include "runtime/program/command_line.h"
#include "runtime/program/connection_options.h"

namespace airlock {
namespace {

void declare(const CommandOptions& command, ReplayOptions& options) {
  (void)command.text("FILE", options.file, "a trace: of prefill --record, or of airlock_trace")
      .required();
  command.choice("--speed", options.speed,
                 "max: as fast as it goes; recorded: no op before its recorded start");
  command.number("--repeat", options.repeat, std::size_t{1}, std::size_t{1000000},
                 "replays of the trace, one after the other");
  command.number("--clients", options.clients, std::size_t{1}, limits::kMaxClients,
                 "sessions at once; each replays the whole trace");
  command.number("--inflight", options.inflight, std::size_t{1}, limits::kMaxRequestsUnderWay,
                 "ops under way at once in each session; what depended on what is not kept");
  command.choice("--verify", options.verify,
                 "compare outputs with the trace's payload: digest (the same bytes), tolerance; "
                 "exit 4 where one differs");
  command.number("--seed", options.seed, std::uint64_t{0}, UINT64_MAX,
                 "seed of the inputs, where the trace has no payload");
  declare_connection(command, options);
  command.text("--stats-json", options.stats_json,
               "write the statistics of all sessions to this file, after a failure too");
  command.choice("-o,--output", options.output, "form of the result on stdout: md, json, csv");
}

}  // namespace

Result<std::optional<ReplayOptions>> parse_replay_options(int argc, const char* const* argv) {
  ReplayOptions options;
  CommandLine line("tee_runner", "The trusted side of Airlock.", protocol_suffix());
  line.require_subcommand();
  declare(line.options().subcommand(
              "replay",
              "Plays a trace against a gpu_server, which may run with --synthetic: the same ops, "
              "shapes and types,\nthe inputs from the trace's payload or by a seed. Prints "
              "recorded times beside replayed ones."),
          options);
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  if (!asked) return std::optional<ReplayOptions>();
  if (is_same_file(options.stats_json, options.file)) {
    return line.refuse("--stats-json " + options.stats_json + " is the trace that is replayed");
  }
  return std::optional<ReplayOptions>(options);
}

}  // namespace airlock
