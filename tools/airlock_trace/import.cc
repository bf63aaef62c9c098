#include "tools/airlock_trace/import.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "base/log.h"
#include "base/readable_file.h"
#include "runtime/model/config.h"
#include "tools/airlock_trace/show.h"
#include "tools/airlock_trace/synth.h"

namespace airlock::trace {
namespace {

/// What a message's own header takes outside the ring at most, and what two decimals of KB lose.
constexpr std::uint64_t kHeaderSlackBytes = 512;
constexpr std::uint64_t kRoundingBytes = 6;
/// The summary has four decimals of a second.
constexpr std::uint64_t kSummarySlackNs = 100'000;

/// `count` where `bytes` are `count` units and a header; else nullopt.
std::optional<std::int64_t> units(std::uint64_t bytes, std::uint64_t unit) {
  const std::uint64_t count = (bytes + kRoundingBytes) / unit;
  const bool exact = bytes + kRoundingBytes - count * unit <= kHeaderSlackBytes + kRoundingBytes;
  const bool fits = count >= 1 && count <= static_cast<std::uint64_t>(limits::kMaxTokens);
  return exact && fits ? std::optional(static_cast<std::int64_t>(count)) : std::nullopt;
}

/// The token count that a call's bytes outside the ring fit: of scores, which are the first
/// matmul's result, else of gate and up, or of what down takes.
std::optional<std::int64_t> tokens_of(const LogCall& call, const ModelDims& dims, DType wire) {
  constexpr std::uint64_t kLeastBytes = 8 * kHeaderSlackBytes + 1;
  const std::uint64_t bytes = dtype_bytes(wire);
  if (call.op == Op::kMatmul && call.received_bytes >= kLeastBytes) {
    const std::uint64_t unit = static_cast<std::uint64_t>(dims.heads) * bytes;
    const auto root =
        static_cast<std::uint64_t>(std::sqrt(static_cast<double>(call.received_bytes / unit)));
    const auto rows = root >= 1 ? units(call.received_bytes, unit * root) : std::nullopt;
    if (rows && static_cast<std::uint64_t>(*rows) == root) return rows;
  }
  if (call.op == Op::kBatchLinear) {
    const std::uint64_t unit = static_cast<std::uint64_t>(dims.intermediate) * bytes;
    if (call.received_bytes >= kLeastBytes) return units(call.received_bytes, 2 * unit);
    if (call.sent_bytes >= kLeastBytes) return units(call.sent_bytes, unit);
  }
  return std::nullopt;
}

/// A tensor whose bytes were counted outside the ring went by ZeroMQ. The smallest set that fits:
/// what a header's bytes could be is not taken for a tensor.
bool assign_paths(std::vector<TraceTensor>& tensors, std::uint64_t outside_bytes) {
  std::optional<std::pair<std::uint64_t, unsigned>> best;
  for (unsigned set = 0; set < 1U << tensors.size(); ++set) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if ((set >> i & 1U) != 0) sum += tensors[i].desc.bytes();
    }
    const bool fits = sum <= outside_bytes + kRoundingBytes &&
                      outside_bytes <= sum + kHeaderSlackBytes + kRoundingBytes;
    if (fits && (!best || sum < best->first)) best = {sum, set};
  }
  if (!best) return false;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].path = (best->second >> i & 1U) != 0 ? Path::kZmq : Path::kRing;
  }
  return true;
}

class Importer {
 public:
  Importer(const PrototypeLog& log, const ImportChoice& choice, std::string_view source)
      : log_(log), choice_(choice), source_(source) {}

  Result<Imported> import() {
    make_header();
    ASSIGN_OR_RETURN(plan_, plan_forward(choice_.dims, shape_));
    for (const LogCall& call : log_.calls) RETURN_IF_ERROR(add_call(call));
    if (runs_ == 0) return Status(StatusCode::kInvalidInput, "{}: no prefill in it", source_);
    if (const auto inits = count_of(Op::kInit); inits != 0)
      note("{} Init left out: a trace begins with the prefill", inits);
    if (!log_.cut.empty()) imported_.warnings.push_back(log_.cut);
    take_wall();
    RETURN_IF_ERROR(keep_run());
    imported_.header.records = imported_.records.size();
    return std::move(imported_);
  }

 private:
  template <typename... Args>
  Status refuse(const LogCall& call, fmt::format_string<Args...> format, Args&&... args) const {
    return {StatusCode::kInvalidInput, "{}:{}: {}", source_, call.line,
            fmt::format(format, std::forward<Args>(args)...)};
  }
  template <typename... Args>
  void note(fmt::format_string<Args...> format, Args&&... args) {
    imported_.notes.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  template <typename... Args>
  void warn(fmt::format_string<Args...> format, Args&&... args) {
    imported_.warnings.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  std::ptrdiff_t count_of(Op op) const { return std::ranges::count(log_.calls, op, &LogCall::op); }

  void make_header() {
    TraceHeader& header = imported_.header;
    header.source = TraceSource::kImported;
    header.build = build_name();
    header.model = choice_.model;
    header.dims = choice_.dims;
    header.wire = choice_.wire.value_or(choice_.dtype);
    header.dtype = choice_.dtype;
    header.backend = "remote";
    header.path_limit_bytes = limits::kDefaultSlotBytes;
    header.ring_slots = limits::kDefaultSlotCount;
    if (choice_.dims_assumed) header.assumed.emplace_back("model");
    if (!choice_.wire) header.assumed.emplace_back("wire");
    header.assumed.insert(header.assumed.end(), {"dtype", "path_limit_bytes", "ring_slots"});
    header.tokens = choose_tokens();
    // A log without a matmul is one of attention in the TEE, if it goes on after the projections.
    const bool in_tee = count_of(Op::kMatmul) == 0 && log_.calls.size() >= 4;
    const Attention attention =
        choice_.attention.value_or(in_tee ? Attention::kTee : Attention::kOffload);
    header.attention = name_of(attention);
    shape_ = {header.tokens, header.wire, attention, Logits::kLast};
  }

  std::int64_t choose_tokens() {
    if (choice_.tokens) return *choice_.tokens;
    for (const LogCall& call : log_.calls) {
      const auto tokens = tokens_of(call, choice_.dims, imported_.header.wire);
      if (!tokens) continue;
      note("{} tokens, from the bytes outside the ring in line {}", *tokens, call.line);
      return *tokens;
    }
    imported_.header.assumed.emplace_back("tokens");
    note("{} tokens are assumed: no tensor went outside the ring; --tokens says otherwise",
         kPrototypeTokens);
    return kPrototypeTokens;
  }

  Status add_call(const LogCall& call) {
    const bool between = runs_ == 0 || position_ == plan_.size();
    if (call.op == Op::kInit) {
      return between ? Status() : refuse(call, "Init in the middle of a prefill");
    }
    if (between) position_ = 0;
    const PlannedOp& planned = plan_[position_];
    const Op expected = planned.spec.op;
    if (call.op != expected) {
      return refuse(call, "{}, but op {} of a prefill with {} tokens and attention {} is {}",
                    prototype_name(call.op), position_ + 1, shape_.tokens,
                    imported_.header.attention, prototype_name(expected));
    }
    if (between) ++runs_;
    ++position_;
    TraceRecord record = make_record(planned.spec, planned.layer, choice_.dims, std::nullopt);
    RETURN_IF_ERROR(set_paths(call, record));
    record.run = runs_ - 1;
    record.times = {.total_ns = call.total_ns,
                    .tee_ns = call.serialise_ns + call.deserialise_ns,
                    .server_ns = call.gpu_ns};
    balance(record.times);
    imported_.records.push_back(std::move(record));
    comm_ns_ = (between ? 0 : comm_ns_) + call.serialise_ns + call.send_ns + call.receive_ns +
               call.deserialise_ns;
    return {};
  }

  Status set_paths(const LogCall& call, TraceRecord& record) const {
    const auto place = [&](std::vector<TraceTensor>& tensors, std::uint64_t bytes,
                           std::string_view what) -> Status {
      if (assign_paths(tensors, bytes)) return {};
      std::vector<std::size_t> sizes;
      for (const TraceTensor& tensor : tensors) sizes.push_back(tensor.desc.bytes());
      return refuse(call,
                    "{} {} bytes outside the ring; its tensors take {} bytes with {} tokens "
                    "(--tokens, --wire or --config may be others)",
                    what, bytes, fmt::join(sizes, " and "), shape_.tokens);
    };
    RETURN_IF_ERROR(place(record.inputs, call.sent_bytes, "sent"));
    return place(record.outputs, call.received_bytes, "received");
  }

  /// The summary counts the last prefill, whole: believed where its calls and its communication are
  /// those of the lines.
  void take_wall() {
    if (!log_.summary || !log_.summary->wall_ns) {
      return note("the log has no wall-clock time: what the TEE did between ops is unknown");
    }
    const LogSummary& summary = *log_.summary;
    const std::uint64_t stated = summary.comm_ns.value_or(comm_ns_);
    const std::uint64_t apart = stated > comm_ns_ ? stated - comm_ns_ : comm_ns_ - stated;
    if (position_ != plan_.size() || summary.calls.value_or(plan_.size()) != plan_.size() ||
        apart > kSummarySlackNs) {
      return warn("{}:{}: the summary does not fit the last prefill: its times are not taken",
                  source_, summary.line);
    }
    wall_ns_ = *summary.wall_ns;
  }

  /// Leaves the run that was asked for, and lays the ops one behind the other.
  Status keep_run() {
    std::uint64_t kept_run = choice_.run.value_or(kLastRun);
    if (kept_run == kLastRun) kept_run = runs_;
    if (kept_run > runs_) {
      return {StatusCode::kInvalidInput, "{} has {} prefills, --run asks for {}", source_, runs_,
              kept_run};
    }
    if (choice_.run) {
      std::erase_if(imported_.records,
                    [&](const TraceRecord& record) { return record.run != kept_run - 1; });
    }
    imported_.header.runs = choice_.run ? 1 : runs_;
    if (position_ != plan_.size() && kept_run == runs_) {
      warn("{}: cut off in prefill {}, after {} of {} ops", source_, runs_, position_,
           plan_.size());
    }
    if (kept_run == runs_ && imported_.header.runs == 1) {
      imported_.header.wall_ns = wall_ns_;
    } else if (wall_ns_) {
      note("the log's wall-clock time is that of prefill {0} alone: --run {0} imports both", runs_);
    }
    std::uint64_t start_ns = 0;
    for (std::size_t i = 0; i < imported_.records.size(); ++i) {
      TraceRecord& record = imported_.records[i];
      record.seq = i;
      if (choice_.run) record.run = 0;
      record.start_ns = start_ns;
      start_ns += record.times.total_ns;
      if (start_ns > kMaxTraceTimeNs) {
        return {StatusCode::kInvalidInput, "{}: its calls take more than a year", source_};
      }
    }
    // Ops that take longer than the wall: a summary of something else.
    if (imported_.header.wall_ns && *imported_.header.wall_ns < start_ns) {
      warn("{}: the summary's wall-clock time is shorter than its calls: not taken", source_);
      imported_.header.wall_ns.reset();
    }
    return {};
  }

  const PrototypeLog& log_;
  const ImportChoice& choice_;
  std::string_view source_;
  ForwardShape shape_;
  std::vector<PlannedOp> plan_;
  Imported imported_;
  std::size_t position_ = 0;   // in plan_
  std::uint64_t runs_ = 0;     // begun
  std::uint64_t comm_ns_ = 0;  // of the last run
  std::optional<std::uint64_t> wall_ns_;
};

}  // namespace

Result<Imported> import_log(const PrototypeLog& log, const ImportChoice& choice,
                            std::string_view source) {
  return Importer(log, choice, source).import();
}

Status import_command(const Options& options, const OutputFile& file) {
  const std::string& source = options.inputs[0];
  ImportChoice choice{options};
  if (!options.config.empty()) {
    ASSIGN_OR_RETURN(const LlamaConfig config, load_config(options.config));
    choice.model = std::filesystem::path(options.config).filename().string();
    choice.dims = config.dims;
    choice.dtype = config.dtype;
    choice.dims_assumed = false;
  }
  ASSIGN_OR_RETURN(const std::string text, read_text_file(source, kMaxLogBytes));
  ASSIGN_OR_RETURN(const PrototypeLog log, parse_prototype_log(text, source));
  ASSIGN_OR_RETURN(const Imported imported, import_log(log, choice, source));
  for (const std::string& note : imported.notes) log_info(note);
  for (const std::string& warning : imported.warnings) log_warning(warning);
  log_info(fmt::format("{} ops of {}; assumed: {}", imported.records.size(),
                       prefills_text(imported.header.runs),
                       fmt::join(imported.header.assumed, ", ")));
  return write_trace(file, imported.header,
                     [&](std::uint64_t number) { return imported.records[number]; });
}

}  // namespace airlock::trace
