#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/replay/report.h"
#include "tests/replay/replay_rig.h"

namespace airlock {
namespace {

using ::testing::HasSubstr;
using testing::kReplayDims;
using ::testing::Not;
using testing::replay_header;
using testing::replay_records;
using Json = nlohmann::json;

constexpr OpTimes kTimes{
    .total_ns = 300, .tee_ns = 30, .wire_ns = 60, .queue_ns = 10, .server_ns = 200};

/// Replays every op once, each 300 ns long, 100 ns after the one before.
ReplayCounts replay_all(const TraceHeader& header, const std::vector<TraceRecord>& records) {
  ReplayTally tally(header);
  std::uint64_t now = 5000;
  tally.begin(now);
  for (const TraceRecord& record : records) {
    now += 100;
    tally.book(record, kTimes, now);
    now += 300;
  }
  tally.end_pass();
  return tally.counts();
}

ReplayResult result_of(std::size_t clients) {
  ReplayResult result;
  result.settings.file = "t.jsonl";
  result.settings.clients = clients;
  result.trace = replay_header();
  result.complete = true;
  for (std::size_t i = 0; i < clients; ++i) {
    result.clients.push_back({replay_all(result.trace, replay_records()), {}});
  }
  return result;
}

TEST(ReplayCounts, hold_time_between_ops_on_both_sides) {
  const auto records = replay_records();
  TraceHeader header = replay_header();
  header.wall_ns = 1000 * records.size() + 77;  // the TEE's work after the last op
  const ReplayCounts counts = replay_all(header, records);
  EXPECT_EQ(counts.recorded.wall_ns, *header.wall_ns);
  EXPECT_EQ(counts.recorded.between_ns, *header.wall_ns - 600 * records.size());
  EXPECT_EQ(counts.replayed.wall_ns, 400 * records.size());
  EXPECT_EQ(counts.replayed.between_ns, 100 * records.size());
  EXPECT_EQ(counts.replayed.sums.all.times.server_ns, 200 * records.size());
}

TEST(ReplayCounts, do_not_know_what_lay_between_ops_that_an_import_laid_out) {
  TraceHeader header = replay_header();
  header.source = TraceSource::kImported;
  EXPECT_EQ(replay_all(header, replay_records()).recorded.between_ns, std::nullopt);
  header.wall_ns = 1'000'000;
  EXPECT_TRUE(replay_all(header, replay_records()).recorded.between_ns.has_value());
}

TEST(ReplayCounts, do_not_know_what_lay_between_ops_out_of_order) {
  auto records = replay_records();
  std::swap(records[2].start_ns, records[3].start_ns);
  TraceHeader header = replay_header();
  header.wall_ns = 1'000'000;
  EXPECT_EQ(replay_all(header, records).recorded.between_ns, std::nullopt);
}

TEST(ReplayCounts, survive_times_whose_sum_wraps) {
  auto records = replay_records();
  const std::uint64_t year = 366ULL * 24 * 3600 * 1'000'000'000;
  for (TraceRecord& record : records) {
    record.start_ns = 0;
    record.times.total_ns = record.times.server_ns = year;
    record.times.tee_ns = record.times.wire_ns = 0;
  }
  ReplayResult result;
  result.trace = replay_header();
  result.trace.wall_ns = year;
  for (int i = 0; i < 64; ++i) {
    result.clients.push_back({replay_all(result.trace, records), {}});
  }
  const ReplayCounts sum = result.sum();
  EXPECT_EQ(sum.recorded.sums.all.times.server_ns, UINT64_MAX);
  EXPECT_EQ(sum.recorded.wall_ns, 64 * year);
  const Json json = Json::parse(format_replay(result, OutputForm::kJson));
  EXPECT_EQ(json["time"]["recorded"]["server_ns"], UINT64_MAX);
  EXPECT_LE(json["time"]["recorded"]["share"]["server"], 1.0);
}

TEST(ReplayCounts, hold_the_recorded_paths) {
  const auto records = replay_records();
  const ReplayCounts counts = replay_all(replay_header(), records);
  const PathSnapshot& ring = counts.recorded.sums.paths[Path::kRing];
  const PathSnapshot& zmq = counts.recorded.sums.paths[Path::kZmq];
  EXPECT_EQ(ring.sent.messages, records.size());
  EXPECT_EQ(ring.received.messages, records.size());
  EXPECT_EQ(zmq.sent.messages, 0U);
  EXPECT_EQ(ring.sent.bytes + ring.received.bytes + zmq.sent.bytes + zmq.received.bytes,
            counts.replayed.sums.all.bytes());
}

TEST(ReplayCounts, of_a_trace_recorded_without_a_server_have_no_paths) {
  TraceHeader header = replay_header();
  header.backend = "local";
  const ReplayCounts counts = replay_all(header, replay_records());
  EXPECT_EQ(counts.recorded.sums.paths[Path::kRing].sent.messages, 0U);
  EXPECT_EQ(counts.recorded.sums.paths[Path::kZmq].sent.messages, 0U);
}

TEST(ReplayReport, json_holds_exact_sums_over_clients) {
  ReplayResult result = result_of(2);
  const std::size_t ops = replay_records().size();
  const Json json = Json::parse(format_replay(result, OutputForm::kJson));
  EXPECT_EQ(json["op_count"], 2 * ops);
  EXPECT_EQ(json["wall_ns"], 400 * ops);  // the clients ran at once
  EXPECT_EQ(json["time"]["replayed"]["wall_ns"], 2 * 400 * ops);
  EXPECT_EQ(json["time"]["replayed"]["server_ns"], 2 * 200 * ops);
  EXPECT_EQ(json["time"]["replayed"]["tee_ns"], 2 * (100 + 30) * ops);
  EXPECT_DOUBLE_EQ(json["time"]["replayed"]["share"]["server"], 0.5);
  EXPECT_DOUBLE_EQ(json["ops"]["matmul"]["ratio"], 0.5);
  std::uint64_t calls = 0;
  for (const auto& op : json["ops"]) {
    calls += op["calls"].get<std::uint64_t>();
    EXPECT_EQ(op["latency_ns"]["p99"], 300);
    EXPECT_EQ(op["replayed"]["total_ns"], 300 * op["calls"].get<std::uint64_t>());
  }
  EXPECT_EQ(calls, 2 * ops);
  EXPECT_EQ(json["clients"].size(), 2U);
  EXPECT_TRUE(json["complete"]);
}

TEST(ReplayReport, has_no_ratio_where_nothing_was_timed) {
  ReplayResult result = result_of(1);
  auto records = replay_records();
  for (TraceRecord& record : records) {
    record.start_ns = record.times.total_ns = record.times.tee_ns = record.times.wire_ns =
        record.times.server_ns = 0;
  }
  result.trace.source = TraceSource::kSynthesised;
  result.clients = {{replay_all(result.trace, records), {}}};
  EXPECT_THAT(format_replay(result, OutputForm::kMarkdown),
              HasSubstr("| recorded | - | - | - | - | - | - |"));
  EXPECT_TRUE(
      Json::parse(format_replay(result, OutputForm::kJson))["ops"]["matmul"]["ratio"].is_null());
  EXPECT_THAT(format_replay(result, OutputForm::kCsv), Not(HasSubstr("ratio")));
}

TEST(ReplayReport, has_no_shares_where_the_time_between_ops_is_not_known) {
  ReplayResult result = result_of(1);
  result.trace.source = TraceSource::kImported;
  result.clients = {{replay_all(result.trace, replay_records()), {}}};
  EXPECT_THAT(format_replay(result, OutputForm::kMarkdown),
              HasSubstr("| recorded | - | - | - | - | - | - |"));
  EXPECT_THAT(format_replay(result, OutputForm::kCsv), HasSubstr("time,tee,ns,,"));
  const Json recorded = Json::parse(format_replay(result, OutputForm::kJson))["time"]["recorded"];
  for (const char* unknown : {"between_ns", "tee_ns", "wall_ns"}) {
    EXPECT_TRUE(recorded[unknown].is_null()) << unknown;
  }
  EXPECT_TRUE(recorded["share"]["server"].is_null());
  EXPECT_EQ(recorded["server_ns"], 300 * replay_records().size());
}

TEST(ReplayReport, says_what_the_dropped_ops_make_of_the_time_between) {
  ReplayResult result = result_of(1);
  EXPECT_THAT(format_replay(result, OutputForm::kMarkdown),
              Not(HasSubstr("missing from the trace")));
  result.trace.dropped = 3;
  EXPECT_THAT(format_replay(result, OutputForm::kMarkdown),
              HasSubstr("3 ops are missing from the trace"));
  EXPECT_EQ(Json::parse(format_replay(result, OutputForm::kJson))["trace"]["dropped"], 3);
}

TEST(ReplayReport, csv_has_five_columns_and_the_numbers_of_the_json) {
  ReplayResult result = result_of(1);
  const Json json = Json::parse(format_replay(result, OutputForm::kJson));
  const std::string csv = format_replay(result, OutputForm::kCsv);
  std::size_t begin = 0;
  for (std::size_t end = 0; (end = csv.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string line = csv.substr(begin, end - begin);
    EXPECT_EQ(std::count(line.begin(), line.end(), ','), 4) << line;
  }
  const auto& linear = json["ops"]["batch_linear"];
  EXPECT_THAT(csv, HasSubstr("op,batch_linear,total_ns," + linear["recorded"]["total_ns"].dump() +
                             "," + linear["replayed"]["total_ns"].dump() + "\n"));
  EXPECT_THAT(csv, HasSubstr("time,tee,ns," + json["time"]["recorded"]["tee_ns"].dump() + "," +
                             json["time"]["replayed"]["tee_ns"].dump() + "\n"));
}

TEST(ReplayReport, names_each_client_that_failed) {
  ReplayResult result = result_of(3);
  result.complete = false;
  result.clients[1].error = "the server is gone";
  result.clients[2].error = "op 3 (matmul): no room";
  const std::string text = format_replay(result, OutputForm::kMarkdown);
  EXPECT_THAT(text, HasSubstr("Partial"));
  EXPECT_THAT(text, HasSubstr("- client 2, after "));
  EXPECT_THAT(text, HasSubstr("- client 3, after "));
  EXPECT_THAT(text, Not(HasSubstr("- client 1")));
}

TEST(ReplayReport, shows_what_a_server_says_without_control_characters) {
  ReplayResult result = result_of(1);
  result.clients[0].error =
      "the server says: \x1b[2J\xc2\x9b"
      "2J";
  const std::string text = format_replay(result, OutputForm::kMarkdown);
  EXPECT_NE(text.find("the server says: ?[2J??2J"), std::string::npos) << text;
}

TEST(ReplayReport, of_a_replay_that_did_not_begin_divides_by_nothing) {
  ReplayResult result;
  result.trace = replay_header();
  result.clients = {{}};
  for (const OutputForm output : {OutputForm::kMarkdown, OutputForm::kJson, OutputForm::kCsv}) {
    EXPECT_THAT(format_replay(result, output), Not(HasSubstr("nan")));
  }
}

TEST(ReplayReport, says_that_the_ring_is_another) {
  ReplayResult result = result_of(1);
  EXPECT_THAT(format_replay(result, OutputForm::kMarkdown), Not(HasSubstr("not the recorded one")));
  result.same_paths = false;
  EXPECT_THAT(format_replay(result, OutputForm::kMarkdown), HasSubstr("not the recorded one"));
}

}  // namespace
}  // namespace airlock
