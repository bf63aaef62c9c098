#include "tools/airlock_trace/options.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "runtime/program/command_line.h"
#include "runtime/program/connection_options.h"

namespace airlock::trace {
namespace {

/// What is not yet as Options has it.
struct Raw {
  RingGeometry ring{limits::kDefaultSlotCount, limits::kDefaultSlotBytes};
  bool no_ring = false;
  bool all_logits = false;
};

Status parse_run(const std::string& text, std::optional<std::uint64_t>& run) {
  if (text == "last") {
    run = kLastRun;
  } else if (text != "all") {
    std::uint64_t number = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, number);
    if (error != std::errc() || stop != end || number < 1 || number > kMaxRuns) {
      return {StatusCode::kUsage, "'{}' is neither a number from 1 nor last nor all", text};
    }
    run = number;
  }
  return {};
}

CommandOption declare_shape(const CommandOptions& command, Options& options, bool is_synth,
                            const std::string& tokens_default) {
  command.choice("--attention", options.attention,
                 "where QK^T and PV are computed: offload or tee (synth: offload, and tee with "
                 "int8; import: as "
                 "the log has it)");
  static constexpr std::array kWireTypes = {DType::kF32, DType::kBF16, DType::kF16, DType::kI8};
  command.choice<DType>("--wire", options.wire,
                        is_synth ? "type of the tensors that cross: fp32, bf16, fp16 or, with "
                                   "attention tee, int8 (the config's own)"
                                 : "type of the tensors that cross: fp32, bf16 or fp16 (the "
                                   "config's own)",
                        std::span(kWireTypes).first(is_synth ? 4 : 3));
  return command.number("--tokens", options.tokens, std::int64_t{1}, limits::kMaxTokens,
                        fmt::format("tokens of a prefill{}", tokens_default));
}

void declare_trace_output(const CommandOptions& command, Options& options) {
  (void)command.file("-o,--output", options.output, "the trace (0600, replaced); - is stdout")
      .required();
}

CommandOptions declare_synth(const CommandOptions& line, Options& options, Raw& raw) {
  const CommandOptions command =
      line.subcommand("synth", "a trace from a model's shape alone: times are 0");
  (void)command.text("--config", options.config, "config.json of the model").required();
  (void)declare_shape(command, options, true, "").required();
  command.flag("--all-logits", raw.all_logits, "logits of every token, not the last alone");
  command.number("--runs", options.runs, std::uint64_t{1}, kMaxRuns,
                 "prefills, one after the other (1)");
  command.number("--decode", options.decode, std::int64_t{0}, kMaxDecode,
                 "tokens of an answer behind each, one pass a token but for the first (0); "
                 "attention is tee's then");
  const CommandOption slots =
      declare_ring_slots(command, raw.ring.slot_count, "slots of each ring (8)");
  const CommandOption bytes = declare_ring_slot_bytes(
      command, raw.ring.slot_bytes, "payload bytes of a slot, also the path limit (10485760)");
  (void)command.flag("--no-ring", raw.no_ring, "everything goes by ZeroMQ")
      .excludes(slots)
      .excludes(bytes);
  declare_trace_output(command, options);
  return command;
}

CommandOptions declare_import(const CommandOptions& line, Options& options) {
  const CommandOptions command =
      line.subcommand("import", "the log of a run of the Python prototype");
  (void)command.texts("log", options.inputs, "the log").required().count(1, 1);
  command.text("--config", options.config, "config.json of the model (the shape of LLaMA-3.2-1B)");
  (void)declare_shape(command, options, false, " (from the bytes outside the ring, else 128)");
  command.parsed("--run", "N|last|all",
                 "which prefill of the log, from 1, or last, or all. A summary in the log counts "
                 "the last: with it comes its wall-clock time (all)",
                 [&options](const std::string& text) { return parse_run(text, options.run); });
  declare_trace_output(command, options);
  return command;
}

/// show and diff.
CommandOptions declare_reader(const CommandOptions& line, Options& options, std::string_view name,
                              std::string_view what, std::size_t least, std::size_t most) {
  const CommandOptions command = line.subcommand(std::string(name), std::string(what));
  (void)command.texts("files", options.inputs, "traces").required().count(least, most);
  command.choice("-o,--output", options.form, "form of what goes to stdout: md, json or csv (md)");
  return command;
}

CommandOptions declare_export(const CommandOptions& line, Options& options) {
  const CommandOptions command = line.subcommand("export", "a trace for other tools");
  (void)command.texts("file", options.inputs, "the trace; one at a time").required().count(1, 1);
  (void)command
      .choice("--format", options.format,
              "chrome: Trace Event Format, for ui.perfetto.dev or chrome://tracing; csv: a row an "
              "op; jsonl: records with sums and running totals")
      .required();
  command.file("-o,--output", options.output, "the file (0600, replaced); stdout without");
  return command;
}

}  // namespace

Result<std::optional<Options>> parse_options(int argc, const char* const* argv) {
  Options options;
  Raw raw;
  CommandLine line(
      "airlock_trace",
      "Makes, imports, shows, compares and exports traces of prefills (docs/TRACE_FORMAT.md).\n"
      "Exit codes: 0 done, 1 a bad file, 2 usage, 5 the disk is full.");
  line.require_subcommand();
  const CommandOptions all = line.options();
  const std::pair<Command, CommandOptions> commands[] = {
      {Command::kSynth, declare_synth(all, options, raw)},
      {Command::kImport, declare_import(all, options)},
      {Command::kShow,
       declare_reader(all, options, "show", "what is in a trace: ops, paths, shares of the wall", 1,
                      1000)},
      {Command::kDiff, declare_reader(all, options, "diff", "two traces side by side", 2, 2)},
      {Command::kExport, declare_export(all, options)}};
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  if (!asked) return std::optional<Options>();
  for (const auto& [command, declared] : commands) {
    if (declared.chosen()) options.command = command;
  }
  if (raw.all_logits) options.logits = Logits::kAll;
  if (options.decode > 0 && options.attention == Attention::kOffload)
    return line.refuse("--decode: the attention of an answer is tee's, not --attention offload");
  if (options.wire == DType::kI8 && options.attention == Attention::kOffload)
    return line.refuse("--wire int8: attention is tee's then, not --attention offload");
  options.policy =
      raw.no_ring ? PathPolicy{} : PathPolicy{true, raw.ring.slot_bytes, raw.ring.slot_count};
  if (options.command == Command::kExport && options.output.empty())
    options.output = std::string("-");
  return std::optional<Options>(std::move(options));
}

}  // namespace airlock::trace
