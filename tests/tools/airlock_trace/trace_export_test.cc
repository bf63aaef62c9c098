// Exports are parsed back: CSV and JSONL give the same records, the Chrome trace is well formed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "runtime/trace/trace_line.h"
#include "tests/model/temp_model.h"
#include "tests/tools/airlock_trace/trace_rig.h"
#include "tools/airlock_trace/export.h"

namespace airlock::trace {
namespace {

using airlock::test::read_file;
using airlock::test::TempFolder;
using airlock::test::write_file;
using nlohmann::json;
using test::lines_of;
using test::timed_trace;

std::string exported(const Trace& trace, ExportFormat format) {
  const TempFolder folder;
  test::write(trace, folder.path("t"));
  const Status status =
      export_trace(folder.path("t"), format, OutputFile::open(folder.path("out")).value());
  EXPECT_TRUE(status.ok()) << status.message();
  return status.ok() ? read_file(folder.path("out")) : "";
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> words;
  std::istringstream stream(text);
  for (std::string word; std::getline(stream, word, separator);) words.push_back(word);
  if (!text.empty() && text.back() == separator) words.emplace_back();
  return words;
}

/// "bf16[32x1024x64]@ring"
TraceTensor tensor_of(const std::string& text) {
  TraceTensor tensor;
  const std::size_t open = text.find('['), close = text.find(']');
  tensor.desc.dtype = *from_name<DType>(text.substr(0, open));
  std::vector<std::int64_t> extents;
  for (const std::string& extent : split(text.substr(open + 1, close - open - 1), 'x')) {
    extents.push_back(std::stoll(extent));
  }
  tensor.desc.shape = *Shape::make(extents);
  const std::string path = text.substr(close + 2);
  if (path != "-") tensor.path = path == "ring" ? Path::kRing : Path::kZmq;
  return tensor;
}

std::vector<TraceTensor> tensors_of(const std::string& text, const std::string& digests) {
  std::vector<TraceTensor> tensors;
  for (const std::string& word : split(text, ' ')) tensors.push_back(tensor_of(word));
  const auto sums = split(digests, ' ');
  for (std::size_t i = 0; i < sums.size(); ++i) tensors[i].sha256 = sums[i];
  return tensors;
}

TraceRecord record_of_csv(const std::vector<std::string>& columns, const std::string& line) {
  const auto cells = split(line, ',');
  EXPECT_EQ(cells.size(), columns.size()) << line;
  const auto cell = [&](std::string_view name) {
    return cells.at(static_cast<std::size_t>(std::ranges::find(columns, name) - columns.begin()));
  };
  TraceRecord record;
  record.seq = std::stoull(cell("seq"));
  record.run = std::stoull(cell("run"));
  for (const Op op : {Op::kBatchLinear, Op::kMatmul, Op::kLmHead}) {
    if (cell("op") == name_of(op)) record.op = op;
  }
  if (!cell("layer").empty()) record.layer = static_cast<std::uint16_t>(std::stoul(cell("layer")));
  for (const std::string& word : split(cell("weights"), ' ')) {
    for (int kind = 1; kind <= 7; ++kind) {
      const std::size_t point = word.find('.');
      if (word.substr(point + 1) == name_of(static_cast<WeightKind>(kind))) {
        record.weights.push_back({static_cast<WeightKind>(kind),
                                  static_cast<std::uint16_t>(std::stoul(word.substr(0, point)))});
      }
    }
  }
  if (cell("transpose") == "a") record.transpose = Transpose::kA;
  if (cell("transpose") == "b") record.transpose = Transpose::kB;
  record.inputs = tensors_of(cell("inputs"), cell("input_sha256"));
  record.outputs = tensors_of(cell("outputs"), cell("output_sha256"));
  EXPECT_EQ(cell("input_bytes"), std::to_string(record.input_bytes()));
  EXPECT_EQ(cell("output_bytes"), std::to_string(record.output_bytes()));
  record.slots_in_use = static_cast<std::uint32_t>(std::stoul(cell("slots")));
  record.start_ns = std::stoull(cell("start_ns"));
  record.times.total_ns = std::stoull(cell("total_ns"));
  record.times.tee_ns = std::stoull(cell("tee_ns"));
  record.times.wire_ns = std::stoull(cell("wire_ns"));
  record.times.queue_ns = std::stoull(cell("queue_ns"));
  record.times.server_ns = std::stoull(cell("server_ns"));
  return record;
}

Trace with_digests(Trace trace) {
  trace.header.digests = true;
  for (TraceRecord& record : trace.records) {
    for (auto* tensors : {&record.inputs, &record.outputs}) {
      for (TraceTensor& tensor : *tensors) tensor.sha256 = std::string(64, 'a');
    }
  }
  return trace;
}

TEST(CsvExport, parses_back_to_the_same_records) {
  for (const Trace& trace : {timed_trace(64, 2), with_digests(timed_trace(16))}) {
    const auto lines = lines_of(exported(trace, ExportFormat::kCsv));
    ASSERT_EQ(lines.size(), trace.records.size() + 1);
    EXPECT_EQ(lines[0],
              "seq,run,op,layer,weights,transpose,inputs,outputs,input_sha256,output_sha256,"
              "input_bytes,output_bytes,ring_bytes,pool_bytes,zmq_bytes,path,slots,start_ns,total_"
              "ns,tee_ns,"
              "wire_ns,queue_ns,server_ns");
    const auto columns = split(lines[0], ',');
    for (std::size_t i = 0; i < trace.records.size(); ++i) {
      EXPECT_EQ(record_of_csv(columns, lines[i + 1]), trace.records[i]) << lines[i + 1];
    }
  }
}

TEST(JsonlExport, parses_back_to_the_same_records_with_running_totals) {
  const Trace trace = with_digests(timed_trace(64, 2));
  const auto lines = lines_of(exported(trace, ExportFormat::kJsonl));
  ASSERT_EQ(lines.size(), trace.records.size());
  std::uint64_t zmq_bytes = 0, total_ns = 0;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const auto record = decode_trace_record(lines[i], trace.header, "line");
    ASSERT_TRUE(record.ok()) << record.status().message();
    EXPECT_EQ(*record, trace.records[i]);
    const json line = json::parse(lines[i]);
    zmq_bytes += line["zmq_bytes"].get<std::uint64_t>();
    total_ns += record->times.total_ns;
    EXPECT_EQ(line["so_far"]["ops"], i + 1);
    EXPECT_EQ(line["so_far"]["zmq_bytes"], zmq_bytes);
    EXPECT_EQ(line["so_far"]["total_ns"], total_ns);
    EXPECT_EQ(line["end_ns"], record->start_ns + record->times.total_ns);
    EXPECT_EQ(line["ring_bytes"].get<std::uint64_t>() + line["zmq_bytes"].get<std::uint64_t>(),
              record->input_bytes() + record->output_bytes());
    if (!record->weights.empty()) {
      EXPECT_EQ(line["weight_names"].size(), record->weights.size());
    }
  }
  EXPECT_EQ(json::parse(lines[1])["weight_names"][0], "model.layers.0.self_attn.q_proj.weight");
}

/// Nanoseconds of a "ts" or "dur", which are microseconds.
std::int64_t ns_of(const json& event, const char* key) {
  return std::llround(event.at(key).get<double>() * 1000);
}

struct Span {
  std::int64_t start, end;
};

/// Checks all that a viewer relies on; the number of lanes.
std::size_t expect_well_formed(const Trace& trace, const std::string& text) {
  const json whole = json::parse(text);
  std::map<std::pair<int, int>, std::vector<Span>> open;  // slices around the current one
  std::map<std::pair<int, int>, std::int64_t> last_ts;
  std::map<int, std::string> flows;
  std::set<std::pair<int, int>> named;
  std::set<int> processes, lanes;
  std::size_t ops = 0, services = 0;
  for (const json& event : whole.at("traceEvents")) {
    const std::string phase = event.at("ph");
    const std::pair<int, int> lane = {event.at("pid"), event.at("tid")};
    if (phase == "M") {
      if (event["name"] == "thread_name") named.insert(lane);
      if (event["name"] == "process_name") processes.insert(lane.first);
      continue;
    }
    EXPECT_TRUE(named.contains(lane)) << event;
    const std::int64_t start = ns_of(event, "ts");
    if (phase == "X") {
      EXPECT_GE(start, last_ts[lane]) << event;
      last_ts[lane] = start;
      const std::int64_t end = start + ns_of(event, "dur");
      auto& around = open[lane];
      while (!around.empty() && around.back().end <= start) around.pop_back();
      if (!around.empty()) {  // nested in an op of the runner; the server's never overlap
        EXPECT_LE(end, around.back().end) << event;
        EXPECT_EQ(lane.first, kRunnerPid) << event;
      }
      around.push_back({start, end});
      if (event["cat"] == "op") {
        const TraceRecord& record = trace.records.at(ops++);
        EXPECT_EQ(start, static_cast<std::int64_t>(record.start_ns));
        EXPECT_EQ(end - start, static_cast<std::int64_t>(record.times.total_ns));
        EXPECT_EQ(event["args"]["bytes_in"], record.input_bytes());
        lanes.insert(lane.second);
      }
      if (event["cat"] == "server" && event["name"] != "queue") {
        const TraceRecord& record = trace.records.at(services++);
        EXPECT_GE(start, static_cast<std::int64_t>(record.start_ns));
        EXPECT_LE(end, static_cast<std::int64_t>(record.start_ns + record.times.total_ns));
        EXPECT_EQ(end - start, static_cast<std::int64_t>(record.times.server_ns));
      }
      continue;
    }
    flows[event.at("id")] += phase;
    EXPECT_EQ(lane.first, phase == "t" ? kServerPid : kRunnerPid);
    EXPECT_FALSE(open[lane].empty()) << "a flow that hangs on no slice: " << event;
  }
  EXPECT_EQ(processes.size(), 2U);
  EXPECT_EQ(ops, trace.records.size());
  EXPECT_EQ(services, trace.records.size());
  EXPECT_EQ(flows.size(), trace.records.size());
  for (const auto& [id, phases] : flows) EXPECT_EQ(phases, "stf") << id;
  EXPECT_TRUE(whole.contains("otherData"));
  return lanes.size();
}

TEST(ChromeExport, draws_one_op_after_the_other_in_one_lane) {
  const Trace trace = timed_trace(64, 2);
  EXPECT_EQ(expect_well_formed(trace, exported(trace, ExportFormat::kChrome)), 1U);
}

TEST(ChromeExport, gives_each_op_under_way_at_once_a_lane) {
  const Trace trace = timed_trace(64, 2, 4000);
  EXPECT_EQ(expect_well_formed(trace, exported(trace, ExportFormat::kChrome)), 2U);
}

TEST(ChromeExport, keeps_slices_apart_where_ops_are_not_in_the_order_of_their_start) {
  Trace trace = timed_trace(64);
  std::ranges::reverse(trace.records);
  EXPECT_EQ(expect_well_formed(trace, exported(trace, ExportFormat::kChrome)), 20U);
}

TEST(ChromeExport, writes_ops_without_any_time) {
  Trace trace = timed_trace(16);
  for (TraceRecord& record : trace.records) {
    record.times.total_ns = record.times.tee_ns = record.times.wire_ns = record.times.queue_ns =
        record.times.server_ns = 0;
  }
  expect_well_formed(trace, exported(trace, ExportFormat::kChrome));
}

TEST(ChromeExport, refuses_more_ops_under_way_than_it_has_lanes) {
  const TempFolder folder;
  Trace trace = timed_trace(8, 60);  // 1200 ops
  for (TraceRecord& record : trace.records) record.start_ns = 0;
  test::write(trace, folder.path("t"));
  const Status status = export_trace(folder.path("t"), ExportFormat::kChrome,
                                     OutputFile::open(folder.path("out")).value());
  EXPECT_EQ(status.code(), StatusCode::kInvalidInput);
  EXPECT_FALSE(std::filesystem::exists(folder.path("out")));
}

TEST(ChromeExport, draws_a_synthesised_trace_op_after_op) {
  Trace trace = timed_trace(16);
  trace.header.source = TraceSource::kSynthesised;
  const json whole = json::parse(exported(trace, ExportFormat::kChrome));
  std::int64_t next = 0;
  for (const json& event : whole["traceEvents"]) {
    if (event["ph"] != "X") continue;
    EXPECT_EQ(ns_of(event, "ts"), next);
    next += ns_of(event, "dur");
  }
  EXPECT_EQ(next, static_cast<std::int64_t>(trace.records.size() * kNominalOpNs));
}

TEST(Export, of_a_cut_trace_goes_up_to_the_cut) {
  const TempFolder folder;
  test::write(timed_trace(64), folder.path("t"));
  const std::string whole = read_file(folder.path("t"));
  write_file(folder.path("cut"), whole.substr(0, whole.size() - 40));
  ASSERT_TRUE(export_trace(folder.path("cut"), ExportFormat::kChrome,
                           OutputFile::open(folder.path("out")).value())
                  .ok());
  const json chrome = json::parse(read_file(folder.path("out")));
  EXPECT_EQ(chrome["otherData"]["ops"], 19);
  EXPECT_TRUE(chrome["otherData"].contains("cut"));
  ASSERT_TRUE(export_trace(folder.path("cut"), ExportFormat::kCsv,
                           OutputFile::open(folder.path("out")).value())
                  .ok());
  EXPECT_EQ(lines_of(read_file(folder.path("out"))).size(), 20U);
}

TEST(Export, of_a_bad_trace_leaves_nothing_behind) {
  const TempFolder folder;
  test::write(timed_trace(64), folder.path("t"));
  std::string text = read_file(folder.path("t"));
  text.insert(text.size() / 2, "\n{}\n");
  write_file(folder.path("t"), text);
  EXPECT_EQ(export_trace(folder.path("t"), ExportFormat::kCsv,
                         OutputFile::open(folder.path("out")).value())
                .code(),
            StatusCode::kInvalidInput);
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    ++files;
  }
  EXPECT_EQ(files, 1U);
}

}  // namespace
}  // namespace airlock::trace
