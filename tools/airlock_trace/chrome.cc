#include "tools/airlock_trace/chrome.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/airlock_trace/summary.h"
#include "tools/airlock_trace/text.h"

namespace airlock::trace {
namespace {

/// Microseconds with all their nanoseconds, exactly.
std::string us(std::uint64_t ns) { return fmt::format("{}.{:03}", ns / 1000, ns % 1000); }

std::string slice_name(const TraceRecord& record) {
  std::string name(name_of(record.op));
  for (const WeightId& weight : record.weights) {
    name +=
        fmt::format("{}{}", &weight == &record.weights.front() ? " " : "+", name_of(weight.kind));
  }
  if (record.op == Op::kMatmul && record.transpose == Transpose::kB) name += " transpose b";
  if (record.op == Op::kMatmul && record.transpose == Transpose::kA) name += " transpose a";
  return record.layer ? name + fmt::format(" L{}", *record.layer) : name;
}

/// Only numbers and our own words: nothing to escape.
std::string args_of(const TraceRecord& record) {
  std::uint64_t zmq_bytes = 0;
  for (const auto* tensors : {&record.inputs, &record.outputs}) {
    for (const TraceTensor& tensor : *tensors) {
      if (tensor.path == Path::kZmq) zmq_bytes += tensor.desc.bytes();
    }
  }
  return fmt::format(
      "\"seq\":{},\"run\":{},\"layer\":{},\"shapes\":\"{}\",\"bytes_in\":{},\"bytes_out\":{},"
      "\"path\":\"{}\",\"zmq_bytes\":{},\"slots\":{},\"tee_ns\":{},\"wire_ns\":{},\"queue_ns\":{},"
      "\"server_ns\":{}",
      record.seq, record.run, record.layer ? std::to_string(*record.layer) : "null",
      shapes_text(record), record.input_bytes(), record.output_bytes(),
      path_text(record.slowest_path()), zmq_bytes, record.slots_in_use, record.times.tee_ns,
      record.times.wire_ns, record.times.queue_ns, record.times.server_ns);
}

}  // namespace

struct ChromeExport::Slice {
  int pid;
  std::size_t lane;
  std::string_view name;
  std::string_view category;
  std::uint64_t start_ns;
  std::uint64_t ns;
  std::string_view args;
};

ChromeExport::ChromeExport(const TraceHeader& header, Output& output)
    : header_(header), output_(output) {
  output_.add("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
  const bool local = header_.backend == "local";
  const auto name = [&](int pid, std::string_view text) {
    event(
        fmt::format(R"({{"ph":"M","name":"process_name","pid":{},"tid":0,"args":{{"name":"{}"}}}})",
                    pid, text));
    event(fmt::format(
        R"({{"ph":"M","name":"process_sort_index","pid":{0},"tid":0,"args":{{"sort_index":{0}}}}})",
        pid));
  };
  name(kRunnerPid, "tee_runner (TEE)");
  name(kServerPid, local ? "backend in the runner's process" : "gpu_server (untrusted)");
}

void ChromeExport::event(std::string_view json) {
  if (!first_) output_.add(",\n");
  first_ = false;
  output_.add(json);
}

void ChromeExport::name_lane(std::size_t lane) {
  for (const int pid : {kRunnerPid, kServerPid}) {
    event(fmt::format(
        R"({{"ph":"M","name":"thread_name","pid":{},"tid":{},"args":{{"name":"lane {}"}}}})", pid,
        lane + 1, lane + 1));
  }
}

Result<std::size_t> ChromeExport::take_lane(std::uint64_t start_ns, std::uint64_t end_ns) {
  const auto free =
      std::ranges::find_if(lane_ends_ns_, [&](std::uint64_t end) { return end <= start_ns; });
  const auto lane = static_cast<std::size_t>(free - lane_ends_ns_.begin());
  if (lane == kMaxLanes) {
    return Status(
        StatusCode::kInvalidInput,
        fmt::format("more than {} ops are under way at once, or they are not in the order "
                    "of their start",
                    kMaxLanes));
  }
  if (free == lane_ends_ns_.end()) {
    lane_ends_ns_.push_back(0);
    name_lane(lane);
  }
  lane_ends_ns_[lane] = end_ns;
  return lane;
}

void ChromeExport::slice(const Slice& slice) {
  event(fmt::format(
      R"({{"ph":"X","name":"{}","cat":"{}","pid":{},"tid":{},"ts":{},"dur":{},"args":{{{}}}}})",
      slice.name, slice.category, slice.pid, slice.lane + 1, us(slice.start_ns), us(slice.ns),
      slice.args));
}

void ChromeExport::flow(std::string_view phase, int pid, std::size_t lane, std::uint64_t ns) {
  event(fmt::format(R"({{"ph":"{}","name":"op","cat":"flow","id":{},"pid":{},"tid":{},"ts":{}{}}})",
                    phase, count_, pid, lane + 1, us(ns), phase == "f" ? R"(,"bp":"e")" : ""));
}

Status ChromeExport::add(const TraceRecord& record) {
  ++count_;
  const bool timed = header_.source != TraceSource::kSynthesised;
  const std::uint64_t start = timed ? record.start_ns : (count_ - 1) * kNominalOpNs;
  const std::uint64_t total = timed ? record.times.total_ns : kNominalOpNs;
  ASSIGN_OR_RETURN(const std::size_t lane, take_lane(start, start + total));
  const std::string name = slice_name(record);
  const std::string args = args_of(record);
  slice({kRunnerPid, lane, name, "op", start, total, args});
  if (!timed) return {};
  std::uint64_t at = start;
  const auto part = [&](int pid, std::string_view part_name, std::uint64_t ns) {
    if (ns != 0) slice({pid, lane, part_name, pid == kServerPid ? "server" : "part", at, ns, ""});
    at += ns;
  };
  part(kRunnerPid, "encode", record.times.tee_ns / 2);
  const std::uint64_t request = at;
  part(kRunnerPid, "wire: request", record.times.wire_ns / 2);
  flow("s", kRunnerPid, lane, request);
  part(kServerPid, "queue", record.times.queue_ns);
  // Drawn even where it took no time: the flow goes by it.
  slice({kServerPid, lane, name, "server", at, record.times.server_ns, args});
  flow("t", kServerPid, lane, at);
  at += record.times.server_ns;
  const std::uint64_t reply = at;
  part(kRunnerPid, "wire: reply", record.times.wire_ns - record.times.wire_ns / 2);
  flow("f", kRunnerPid, lane, reply);
  part(kRunnerPid, "check", record.times.tee_ns - record.times.tee_ns / 2);
  return {};
}

void ChromeExport::finish(std::string_view cut) {
  nlohmann::ordered_json other;
  other["source"] = name_of(header_.source);
  other["build"] = header_.build;
  other["model"] = header_.model;
  other["tokens"] = header_.tokens;
  other["runs"] = header_.runs;
  other["ops"] = count_;
  other["dropped"] = header_.dropped;
  if (header_.wall_ns) other["wall_ns"] = *header_.wall_ns;
  if (!cut.empty()) other["cut"] = cut;
  other["layout"] =
      header_.source == TraceSource::kSynthesised
          ? "the trace has no times: ops are drawn one after the other, 1 us each"
          : "when the server worked within an op is not known: wire and TEE time are drawn half "
            "before and half after";
  output_.add("\n],\"otherData\":" +
              other.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "}\n");
}

}  // namespace airlock::trace
