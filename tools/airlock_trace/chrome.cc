#include "tools/airlock_trace/chrome.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "tools/airlock_trace/text.h"

namespace airlock::trace {
namespace {

/// Microseconds, which the format counts in, to the nanosecond.
JsonFixed us(std::uint64_t ns) { return {static_cast<double>(ns) / 1000, 3}; }

std::string slice_name(const TraceRecord& record) {
  std::string name(name_of(record.op));
  for (const WeightId& weight : record.weights) {
    name +=
        fmt::format("{}{}", &weight == &record.weights.front() ? " " : "+", name_of(weight.kind));
  }
  if (record.transpose != Transpose::kNone) {
    name += fmt::format(" transpose {}", name_of(record.transpose));
  }
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
  for (const Path path : kPaths)
    args.add(fmt::format("{}_bytes", name_of(path)), record.bytes_by(path));
  args.add("slots", record.slots_in_use);
  visit_times([&](std::string_view key, std::uint64_t ns) { args.add(key, ns); }, record.times);
  return args;
}

JsonObject event_of(std::string_view phase, std::string_view name, int pid, std::size_t tid) {
  return {{"ph", phase}, {"name", name}, {"pid", pid}, {"tid", tid}};
}

}  // namespace

struct ChromeExport::Slice {
  int pid;
  std::size_t lane;
  std::string_view name;
  std::string_view category;
  std::uint64_t start_ns;
  std::uint64_t ns;
  JsonObject args;
};

ChromeExport::ChromeExport(const TraceHeader& header, Output& output)
    : header_(header), output_(output) {
  output_.add("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
  const bool local = header_.backend == "local";
  const auto name = [&](int pid, std::string_view text) {
    event(event_of("M", "process_name", pid, 0).add("args", JsonObject{{"name", text}}));
    event(event_of("M", "process_sort_index", pid, 0).add("args", JsonObject{{"sort_index", pid}}));
  };
  name(kRunnerPid, "tee_runner (TEE)");
  name(kServerPid, local ? "backend in the runner's process" : "gpu_server (untrusted)");
}

void ChromeExport::event(const JsonObject& event) {
  if (!first_) output_.add(",\n");
  first_ = false;
  output_.add(event.text());
}

void ChromeExport::name_lane(std::size_t lane) {
  const JsonObject args = {{"name", fmt::format("lane {}", lane + 1)}};
  for (const int pid : {kRunnerPid, kServerPid}) {
    event(event_of("M", "thread_name", pid, lane + 1).add("args", args));
  }
}

Result<std::size_t> ChromeExport::take_lane(std::uint64_t start_ns, std::uint64_t end_ns) {
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
    name_lane(lane);
  }
  lane_ends_ns_[lane] = end_ns;
  return lane;
}

void ChromeExport::slice(const Slice& slice) {
  event(event_of("X", slice.name, slice.pid, slice.lane + 1)
            .add("cat", slice.category)
            .add("ts", us(slice.start_ns))
            .add("dur", us(slice.ns))
            .add("args", slice.args));
}

void ChromeExport::flow(std::string_view phase, int pid, std::size_t lane, std::uint64_t ns) {
  JsonObject flow = event_of(phase, "op", pid, lane + 1);
  flow.add("cat", "flow").add("id", count_).add("ts", us(ns));
  if (phase == "f") flow.add("bp", "e");
  event(flow);
}

Status ChromeExport::add(const TraceRecord& record) {
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

void ChromeExport::finish(std::string_view cut) {
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

}  // namespace airlock::trace
