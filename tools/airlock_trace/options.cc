#include "tools/airlock_trace/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <iostream>

#include "base/version.h"

namespace airlock::trace {
namespace {

/// What CLI11 fills in, before it is checked.
struct Raw {
  std::int64_t tokens = 0;
  std::string attention;
  std::string wire;
  std::string run = "all";
  std::string form = "md";
  std::string format;
  bool all_logits = false;
  bool no_ring = false;
};

void add_shape_options(CLI::App& command, Raw& raw, std::string_view tokens_default) {
  command
      .add_option("--attention", raw.attention,
                  "where QK^T and PV are computed: offload or tee (synth: offload; import: as the "
                  "log has it)")
      ->check(CLI::IsMember({"offload", "tee"}));
  command
      .add_option("--wire", raw.wire,
                  "type of the tensors that cross: fp32, bf16 or fp16 (the config's own)")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}));
  command.add_option("--tokens", raw.tokens, fmt::format("tokens of a prefill{}", tokens_default))
      ->check(CLI::Range(std::int64_t{1}, limits::kMaxTokens));
}

void declare_synth(CLI::App& app, Options& options, Raw& raw) {
  CLI::App* command =
      app.add_subcommand("synth", "a trace from a model's shape alone: times are 0");
  command->add_option("--config", options.config, "config.json of the model")->required();
  add_shape_options(*command, raw, "");
  command->get_option("--tokens")->required();
  command->add_flag("--all-logits", raw.all_logits, "logits of every token, not the last alone");
  command->add_option("--runs", options.runs, "prefills, one after the other (1)")
      ->check(CLI::Range(std::uint64_t{1}, kMaxRuns));
  auto* slots =
      command->add_option("--ring-slots", options.policy.slot_count, "slots of each ring (8)")
          ->check(CLI::Range(limits::kMinSlotCount, limits::kMaxSlotCount));
  auto* bytes = command
                    ->add_option("--ring-slot-bytes", options.policy.limit_bytes,
                                 "payload bytes of a slot, also the path limit (10485760)")
                    ->check(CLI::Range(limits::kMinSlotBytes, limits::kMaxSlotBytes));
  command->add_flag("--no-ring", raw.no_ring, "everything goes by ZeroMQ")
      ->excludes(slots)
      ->excludes(bytes);
  command->add_option("-o,--output", options.output, "the trace (0600, replaced); - is stdout")
      ->required();
}

void declare_import(CLI::App& app, Options& options, Raw& raw) {
  CLI::App* command = app.add_subcommand("import", "the log of a run of the Python prototype");
  command->add_option("log", options.inputs, "the log")->required()->expected(1);
  command->add_option("--config", options.config,
                      "config.json of the model (the shape of LLaMA-3.2-1B)");
  add_shape_options(*command, raw, " (from the bytes outside the ring, else 128)");
  command->add_option("--run", raw.run,
                      "which prefill of the log, from 1, or last, or all. A summary in the log "
                      "counts the last: with it comes its wall-clock time (all)");
  command->add_option("-o,--output", options.output, "the trace (0600, replaced); - is stdout")
      ->required();
}

void declare_readers(CLI::App& app, Options& options, Raw& raw) {
  CLI::App* show = app.add_subcommand("show", "what is in a trace: ops, paths, shares of the wall");
  show->add_option("files", options.inputs, "traces")->required()->expected(1, 1000);
  CLI::App* diff = app.add_subcommand("diff", "two traces side by side");
  diff->add_option("files", options.inputs, "traces A and B")->required()->expected(2);
  for (CLI::App* command : {show, diff}) {
    command
        ->add_option("-o,--output", raw.form, "form of what goes to stdout: md, json or csv (md)")
        ->check(CLI::IsMember({"md", "json", "csv"}));
  }
  CLI::App* command = app.add_subcommand("export", "a trace for other tools");
  command->add_option("file", options.inputs, "the trace; one at a time")->required()->expected(1);
  command
      ->add_option("--format", raw.format,
                   "chrome: Trace Event Format, for ui.perfetto.dev or chrome://tracing; csv: a "
                   "row an op; jsonl: records with sums and running totals")
      ->required()
      ->check(CLI::IsMember({"chrome", "csv", "jsonl"}));
  command->add_option("-o,--output", options.output, "the file (0600, replaced); stdout without");
}

Status finish(const CLI::App& app, const Raw& raw, Options& options) {
  const auto chosen = [&](const char* name) { return app.got_subcommand(name); };
  options.command = chosen("synth")    ? Command::kSynth
                    : chosen("import") ? Command::kImport
                    : chosen("diff")   ? Command::kDiff
                    : chosen("export") ? Command::kExport
                                       : Command::kShow;
  if (raw.tokens != 0) options.tokens = raw.tokens;
  if (!raw.attention.empty())
    options.attention = raw.attention == "tee" ? Attention::kTee : Attention::kOffload;
  if (!raw.wire.empty()) options.wire = from_name<DType>(raw.wire);
  if (raw.all_logits) options.logits = Logits::kAll;
  if (raw.no_ring) options.policy = {};
  if (options.policy.limit_bytes % 4096 != 0) {
    return {StatusCode::kUsage,
            fmt::format("--ring-slot-bytes {} is no multiple of 4096", options.policy.limit_bytes)};
  }
  if (raw.run == "last") {
    options.run = kLastRun;
  } else if (raw.run != "all") {
    std::uint64_t run = 0;
    const char* end = raw.run.data() + raw.run.size();
    const auto parsed = std::from_chars(raw.run.data(), end, run);
    if (parsed.ec != std::errc() || parsed.ptr != end || run < 1 || run > kMaxRuns) {
      return {StatusCode::kUsage,
              fmt::format("--run '{}' is neither a number from 1 nor last nor all", raw.run)};
    }
    options.run = run;
  }
  if (options.command == Command::kExport && options.output.empty()) options.output = "-";
  options.form = *from_name<OutputForm>(raw.form);
  if (raw.format == "csv") options.format = ExportFormat::kCsv;
  if (raw.format == "jsonl") options.format = ExportFormat::kJsonl;
  return {};
}

}  // namespace

Result<std::optional<Options>> parse_options(int argc, const char* const* argv) {
  Options options;
  Raw raw;
  CLI::App app{
      "Makes, imports, shows, compares and exports traces of prefills (docs/TRACE_FORMAT.md).\n"
      "Exit codes: 0 done, 1 a bad file, 2 usage, 5 the disk is full."};
  app.require_subcommand(1);
  app.set_version_flag("--version", fmt::format("airlock_trace {}", kVersion));
  declare_synth(app, options, raw);
  declare_import(app, options, raw);
  declare_readers(app, options, raw);
  Status status;
  try {
    app.parse(argc, argv);
    status = finish(app, raw, options);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error, std::cout, std::cerr);
      return std::optional<Options>();
    }
    status = {StatusCode::kUsage, error.what()};
  }
  if (!status.ok()) return Status(status.code(), status.message() + " (see airlock_trace --help)");
  return std::optional<Options>(std::move(options));
}

}  // namespace airlock::trace
