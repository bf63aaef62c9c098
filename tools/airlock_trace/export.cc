#include "tools/airlock_trace/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/log.h"
#include "runtime/json/writer.h"
#include "runtime/model/model_source.h"
#include "runtime/text/table.h"
#include "runtime/trace/summary.h"
#include "runtime/trace/trace_line.h"
#include "runtime/trace/trace_reader.h"
#include "tools/airlock_trace/show.h"

namespace airlock::trace {
namespace {

/// What `text_of` gives for each, with a space between them.
template <typename T, typename TextOf>
std::string joined(const std::vector<T>& items, TextOf text_of) {
  std::string text;
  for (const T& item : items) {
    if (!text.empty()) text += ' ';
    text += text_of(item);
  }
  return text;
}

/// "-" where nothing was crossed.
std::string_view path_text(const std::optional<Path>& path) { return path ? name_of(*path) : "-"; }

/// "bf16[32x1024x64]@ring"
std::string tensor_text(const TraceTensor& tensor) {
  return fmt::format("{}@{}", desc_text(tensor.desc), path_text(tensor.path));
}

const std::string& digest_text(const TraceTensor& tensor) { return tensor.sha256; }

std::string bytes_key(Path path) { return fmt::format("{}_bytes", name_of(path)); }

/// A row of the CSV: the key and the cell of each column.
std::vector<std::pair<std::string, Cell>> csv_record(const TraceRecord& record) {
  const bool matmul = record.op == Op::kMatmul;
  std::vector<std::pair<std::string, Cell>> cells = {
      {"seq", record.seq},
      {"run", record.run},
      {"op", name_of(record.op)},
      {"layer", record.layer},
      {"weights", joined(record.weights, weight_text)},
      {"transpose", matmul ? name_of(record.transpose) : ""},
      {"inputs", joined(record.inputs, tensor_text)},
      {"outputs", joined(record.outputs, tensor_text)},
      {"input_sha256", joined(record.inputs, digest_text)},
      {"output_sha256", joined(record.outputs, digest_text)},
      {"input_bytes", record.input_bytes()},
      {"output_bytes", record.output_bytes()}};
  for (const Path path : kPaths) cells.emplace_back(bytes_key(path), record.bytes_by(path));
  const auto slowest = record.slowest_path();
  cells.emplace_back("path", slowest ? name_of(*slowest) : "");
  cells.emplace_back("slots", record.slots_in_use);
  cells.emplace_back("start_ns", record.start_ns);
  visit_times([&](std::string_view key, std::uint64_t ns) { cells.emplace_back(key, ns); },
              record.times);
  return cells;
}

std::string csv_head() {
  Cells keys;
  for (const auto& [key, cell] : csv_record({})) keys.emplace_back(key);
  return csv_line(keys);
}

std::string csv_row(const TraceRecord& record) {
  Cells cells;
  for (auto& [key, cell] : csv_record(record)) cells.push_back(std::move(cell));
  return csv_line(cells);
}

/// The record's line with what a reader would have to add up: decode_trace_record() still reads it.
/// `so_far` is the sum of the records up to this one.
std::string jsonl_record(const TraceRecord& record, const TraceSummary& so_far) {
  JsonObject json = record_object(record);
  if (!record.weights.empty()) {
    std::vector<std::string> names;
    for (const WeightId& weight : record.weights) names.push_back(weight_name(weight));
    json.add("weight_names", names);
  }
  json.add("end_ns", record.end_ns())
      .add("input_bytes", record.input_bytes())
      .add("output_bytes", record.output_bytes());
  JsonObject sums;
  sums.add("ops", so_far.all.calls);
  for (const Path path : kPaths) {
    json.add(bytes_key(path), record.bytes_by(path));
    sums.add(bytes_key(path),
             add_saturating(so_far.paths[path].sent.bytes, so_far.paths[path].received.bytes));
  }
  visit_times([&](std::string_view key, std::uint64_t ns) { sums.add(key, ns); }, so_far.all.times);
  return json.add("path", record.slowest_path()).add("so_far", sums).line();
}

/// Microseconds, which the format counts in, to the nanosecond.
JsonFixed us(std::uint64_t ns) { return {static_cast<double>(ns) / 1000, 3}; }

std::string slice_name(const TraceRecord& record) {
  std::string name(name_of(record.op));
  char separator = ' ';
  for (const WeightId& weight : record.weights)
    name += fmt::format("{}{}", std::exchange(separator, '+'), name_of(weight.kind));
  if (record.transpose != Transpose::kNone)
    name += fmt::format(" transpose {}", name_of(record.transpose));
  return record.layer ? name + fmt::format(" L{}", *record.layer) : name;
}

JsonObject args_of(const TraceRecord& record) {
  JsonObject args = {{"seq", record.seq},
                     {"run", record.run},
                     {"layer", record.layer},
                     {"shapes", shapes_text(record)},
                     {"bytes_in", record.input_bytes()},
                     {"bytes_out", record.output_bytes()},
                     {"path", path_text(record.slowest_path())}};
  for (const Path path : kPaths) args.add(bytes_key(path), record.bytes_by(path));
  args.add("slots", record.slots_in_use);
  visit_times([&](std::string_view key, std::uint64_t ns) { args.add(key, ns); }, record.times);
  return args;
}

JsonObject event_of(std::string_view phase, std::string_view name, int pid, std::size_t tid) {
  return {{"ph", phase}, {"name", name}, {"pid", pid}, {"tid", tid}};
}

constexpr std::size_t kMaxLanes = 1024;

/// Writes a trace as Trace Event Format (JSON object form), for ui.perfetto.dev and
/// chrome://tracing. Runner and server are two processes; an op lies in the first lane (thread)
/// that is free at its start, with the parts of its time nested in it, its queue and computation in
/// the same lane of the server, and a flow from request to service to reply. A trace does not say
/// when within an op the server worked: the wire's and the TEE's time are drawn half before and
/// half after.
class ChromeExport {
 public:
  /// `output` outlives it.
  ChromeExport(const TraceHeader& header, OutputDraft& output) : header_(header), output_(output) {
    output_.add("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
    const bool local = header_.backend == "local";
    const auto name = [&](int pid, std::string_view text) {
      event(event_of("M", "process_name", pid, 0).add("args", JsonObject{{"name", text}}));
      event(
          event_of("M", "process_sort_index", pid, 0).add("args", JsonObject{{"sort_index", pid}}));
    };
    name(kRunnerPid, "tee_runner (TEE)");
    name(kServerPid, local ? "backend in the runner's process" : "gpu_server (untrusted)");
  }
  /// kInvalidInput where more than kMaxLanes ops are under way at once.
  Status add(const TraceRecord& record) {
    ++count_;
    const bool timed = header_.source != TraceSource::kSynthesised;
    const OpTimes& times = record.times;
    const std::uint64_t start = timed ? record.start_ns : (count_ - 1) * kNominalOpNs;
    const std::uint64_t total = timed ? times.total_ns : kNominalOpNs;
    ASSIGN_OR_RETURN(const std::size_t lane, take_lane(start, start + total));
    const std::string name = slice_name(record);
    const JsonObject args = args_of(record);
    slice({kRunnerPid, lane, name, "op", start, total, args});
    if (!timed) return {};
    std::uint64_t at = start;
    const auto part = [&](int pid, std::string_view part_name, std::uint64_t ns) {
      if (ns != 0) slice({pid, lane, part_name, pid == kServerPid ? "server" : "part", at, ns, {}});
      at += ns;
    };
    part(kRunnerPid, "encode", times.tee_ns / 2);
    const std::uint64_t request = at;
    part(kRunnerPid, "wire: request", times.wire_ns / 2);
    flow("s", kRunnerPid, lane, request);
    part(kServerPid, "queue", times.queue_ns);
    // Drawn even where it took no time: the flow goes by it.
    slice({kServerPid, lane, name, "server", at, times.server_ns, args});
    flow("t", kServerPid, lane, at);
    at += times.server_ns;
    const std::uint64_t reply = at;
    part(kRunnerPid, "wire: reply", times.wire_ns - times.wire_ns / 2);
    flow("f", kRunnerPid, lane, reply);
    part(kRunnerPid, "check", times.tee_ns - times.tee_ns / 2);
    return {};
  }
  /// Closes the JSON; `cut` goes into its metadata.
  void finish(std::string_view cut) {
    JsonObject other = {{"source", header_.source},  {"build", header_.build},
                        {"model", header_.model},    {"tokens", header_.tokens},
                        {"runs", header_.runs},      {"ops", count_},
                        {"dropped", header_.dropped}};
    if (header_.wall_ns) other.add("wall_ns", *header_.wall_ns);
    if (!cut.empty()) other.add("cut", cut);
    other.add("layout", header_.source == TraceSource::kSynthesised
                            ? "the trace has no times: ops are drawn one after the other, 1 us each"
                            : "when the server worked within an op is not known: wire and TEE time "
                              "are drawn half before and half after");
    output_.add("\n],\"otherData\":" + other.text() + "}\n");
  }

 private:
  struct Slice {
    int pid;
    std::size_t lane;
    std::string_view name;
    std::string_view category;
    std::uint64_t start_ns;
    std::uint64_t ns;
    JsonObject args;
  };
  void event(const JsonObject& event) {
    output_.add(std::exchange(separator_, ",\n"));
    output_.add(event.text());
  }

  Result<std::size_t> take_lane(std::uint64_t start_ns, std::uint64_t end_ns) {
    const auto free =
        std::ranges::find_if(lane_ends_ns_, [&](std::uint64_t end) { return end <= start_ns; });
    const auto lane = static_cast<std::size_t>(free - lane_ends_ns_.begin());
    if (lane == kMaxLanes) {
      return Status(
          StatusCode::kInvalidInput,
          "more than {} ops are under way at once, or they are not in the order of their start",
          kMaxLanes);
    }
    if (free == lane_ends_ns_.end()) {
      lane_ends_ns_.push_back(0);
      const JsonObject args = {{"name", fmt::format("lane {}", lane + 1)}};
      for (const int pid : {kRunnerPid, kServerPid})
        event(event_of("M", "thread_name", pid, lane + 1).add("args", args));
    }
    lane_ends_ns_[lane] = end_ns;
    return lane;
  }

  void slice(const Slice& slice) {
    event(event_of("X", slice.name, slice.pid, slice.lane + 1)
              .add("cat", slice.category)
              .add("ts", us(slice.start_ns))
              .add("dur", us(slice.ns))
              .add("args", slice.args));
  }

  void flow(std::string_view phase, int pid, std::size_t lane, std::uint64_t ns) {
    JsonObject flow = event_of(phase, "op", pid, lane + 1);
    flow.add("cat", "flow").add("id", count_).add("ts", us(ns));
    if (phase == "f") flow.add("bp", "e");
    event(flow);
  }

  const TraceHeader header_;
  OutputDraft& output_;
  std::vector<std::uint64_t> lane_ends_ns_;
  // Of records; also the flows' ids.
  std::uint64_t count_ = 0;
  // Before the next event.
  std::string_view separator_;
};

}  // namespace

Status export_trace(const std::string& file, ExportFormat format, const OutputFile& output_file) {
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(file));
  ASSIGN_OR_RETURN(const auto output, output_file.begin());
  std::optional<ChromeExport> chrome;
  TraceSummary so_far;
  if (format == ExportFormat::kChrome) chrome.emplace(reader.header(), *output);
  if (format == ExportFormat::kCsv) output->add(csv_head());
  while (!output->failed()) {
    ASSIGN_OR_RETURN(const std::optional<TraceRecord> record, reader.next());
    if (!record) break;
    switch (format) {
      case ExportFormat::kChrome:
        RETURN_IF_ERROR(chrome->add(*record).with_context(file));
        break;
      case ExportFormat::kCsv:
        output->add(csv_row(*record));
        break;
      case ExportFormat::kJsonl:
        so_far.add(*record);
        output->add(jsonl_record(*record, so_far));
        break;
    }
  }
  if (chrome) chrome->finish(reader.cut());
  RETURN_IF_ERROR(output->commit());
  if (!reader.cut().empty()) log_warning(reader.cut());
  return {};
}

}  // namespace airlock::trace
