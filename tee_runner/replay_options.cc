#include "tee_runner/replay_options.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <system_error>

#include "proto/limits.h"

namespace airlock {
namespace {

struct Words {
  std::string speed = "max";
  std::string verify = "none";
  std::string output = "md";
  ConnectionWords connection;
};

/// By path or by inode: what is written at the end must not be what is read.
bool is_same_file(const std::string& a, const std::string& b) {
  std::error_code ignored;
  return a == b || std::filesystem::equivalent(a, b, ignored);
}

void declare(CLI::App& app, ReplayOptions& options, Words& words) {
  app.add_option("FILE", options.file, "a trace: of prefill --record, or of airlock_trace")
      ->required();
  app.add_option("--speed", words.speed,
                 "max: as fast as it goes; recorded: no op before its recorded start")
      ->check(CLI::IsMember({"max", "recorded"}));
  app.add_option("--repeat", options.repeat, "replays of the trace, one after the other")
      ->check(CLI::Range(1, 1000000));
  app.add_option("--clients", options.clients, "sessions at once; each replays the whole trace")
      ->check(CLI::Range(std::size_t{1}, limits::kMaxClients));
  app.add_option("--inflight", options.inflight,
                 "ops under way at once in each session; what depended on what is not kept")
      ->check(CLI::Range(std::size_t{1}, limits::kMaxRequestsUnderWay));
  app.add_option("--verify", words.verify,
                 "compare outputs with the trace's payload: digest (the same bytes), tolerance; "
                 "exit 4 where one differs")
      ->check(CLI::IsMember({"none", "digest", "tolerance"}));
  app.add_option("--seed", options.seed, "seed of the inputs, where the trace has no payload");
  declare_connection(app, options, words.connection);
  app.add_option("--stats-json", options.stats_json,
                 "write the statistics of all sessions to this file, after a failure too");
  app.add_option("-o,--output", words.output, "form of the result on stdout: md, json, csv")
      ->check(CLI::IsMember({"md", "json", "csv"}));
}

}  // namespace

Result<std::optional<ReplayOptions>> parse_replay_options(int argc, const char* const* argv) {
  ReplayOptions options;
  Words words;
  CLI::App app{"The trusted side of Airlock."};
  app.require_subcommand(1);
  CLI::App* replay = app.add_subcommand(
      "replay",
      "Plays a trace against a gpu_server, which may run with --synthetic: the same ops, shapes "
      "and "
      "types,\nthe inputs from the trace's payload or by a seed. Prints recorded times beside "
      "replayed ones.");
  declare(*replay, options, words);
  const char* const hint = " (see tee_runner replay --help)";
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error, std::cout, std::cerr);
      return std::optional<ReplayOptions>();
    }
    return Status(StatusCode::kUsage, std::string(error.what()) + hint);
  } catch (const std::exception& error) {
    return Status(StatusCode::kUsage, std::string(error.what()) + hint);
  }
  options.speed = *from_name<ReplaySpeed>(words.speed);
  options.verify = *from_name<ReplayVerify>(words.verify);
  options.output = *from_name<OutputForm>(words.output);
  apply_connection(words.connection, options);
  if (is_same_file(options.stats_json, options.file)) {
    return Status(StatusCode::kUsage,
                  "--stats-json " + options.stats_json + " is the trace that is replayed" + hint);
  }
  return std::optional<ReplayOptions>(options);
}

}  // namespace airlock
