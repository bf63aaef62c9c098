// Logs of the prototype as traces: logs made up for the tiny model, and the three real ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/readable_file.h"
#include "runtime/trace/summary.h"
#include "runtime/trace/trace_line.h"
#include "tests/support/shared_data.h"
#include "tests/tools/airlock_trace/trace_rig.h"
#include "tools/airlock_trace/import.h"

namespace airlock::trace {
namespace {

namespace fs = std::filesystem;
using test::data_path;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

ImportChoice tiny_choice() {
  ImportChoice choice;
  choice.model = "tiny.json";
  choice.dims = test::tiny_dims();
  choice.dtype = DType::kF32;
  choice.dims_assumed = false;
  return choice;
}

std::string text_of(const std::string& path) {
  auto text = read_text_file(path, kMaxLogBytes);
  CHECK(text.ok());
  return *text;
}

Result<Imported> import_text(const std::string& text, const ImportChoice& choice) {
  ASSIGN_OR_RETURN(const PrototypeLog log, parse_prototype_log(text, "x.log"));
  return import_log(log, choice, "x.log");
}

std::uint64_t zmq_bytes(const TraceSummary& summary) {
  const PathSnapshot& zmq = summary.paths[Path::kZmq];
  return zmq.sent.bytes + zmq.received.bytes;
}

TraceFileSummary summary_of(const Imported& imported) {
  TraceFileSummary summary("imported", imported.header);
  for (const TraceRecord& record : imported.records) summary.add(record);
  return summary;
}

/// What a reader of the trace would check.
void expect_decodes(const Imported& imported) {
  const auto header = decode_trace_header(encode_trace_line(imported.header), "header");
  ASSERT_TRUE(header.ok()) << header.status().message();
  std::uint64_t end_ns = 0;
  for (std::size_t i = 0; i < imported.records.size(); ++i) {
    const TraceRecord& record = imported.records[i];
    const auto decoded = decode_trace_record(encode_trace_line(record), *header, "record");
    ASSERT_TRUE(decoded.ok()) << decoded.status().message();
    EXPECT_EQ(*decoded, record);
    EXPECT_EQ(record.seq, i);
    EXPECT_EQ(record.start_ns, end_ns);
    end_ns += record.times.total_ns;
  }
}

TEST(Import, lays_calls_over_the_plan_of_a_prefill) {
  const auto imported =
      import_text(text_of(data_path("prototype_logs/summary.log")), tiny_choice());
  ASSERT_TRUE(imported.ok()) << imported.status().message();
  expect_decodes(*imported);
  const TraceHeader& header = imported->header;
  EXPECT_EQ(header.source, TraceSource::kImported);
  EXPECT_EQ(header.runs, 2U);
  EXPECT_EQ(header.tokens, 128);
  EXPECT_EQ(header.attention, "offload");
  EXPECT_THAT(header.assumed,
              ElementsAre("wire", "dtype", "path_limit_bytes", "ring_slots", "tokens"));
  ASSERT_EQ(imported->records.size(), 40U);
  EXPECT_EQ(imported->records[20].op, Op::kEmbedding);
  EXPECT_EQ(imported->records[20].run, 1U);
  EXPECT_EQ(zmq_bytes(summary_of(*imported)), 0U);
  EXPECT_THAT(imported->warnings, IsEmpty());
  // The summary counts the second prefill alone.
  EXPECT_FALSE(header.wall_ns.has_value());
  EXPECT_THAT(imported->notes, Contains(HasSubstr("--run 2 imports both")));
}

TEST(Import, takes_the_wall_with_the_run_that_the_summary_counts) {
  ImportChoice choice = tiny_choice();
  choice.run = kLastRun;
  const std::string text = text_of(data_path("prototype_logs/summary.log"));
  const auto last = import_text(text, choice);
  ASSERT_TRUE(last.ok()) << last.status().message();
  expect_decodes(*last);
  EXPECT_EQ(last->records.size(), 20U);
  EXPECT_EQ(last->header.runs, 1U);
  EXPECT_EQ(last->header.wall_ns, 300'000'000U);
  choice.run = 1;
  const auto first = import_text(text, choice);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->records.size(), 20U);
  EXPECT_FALSE(first->header.wall_ns.has_value());
  choice.run = 3;
  EXPECT_THAT(import_text(text, choice).status().message(), HasSubstr("has 2 prefills"));
}

TEST(Import, does_not_believe_a_summary_that_does_not_fit_its_lines) {
  ImportChoice choice = tiny_choice();
  choice.run = kLastRun;
  const std::string text = text_of(data_path("prototype_logs/summary.log"));
  for (const auto& [from, to] :
       {std::pair{"Total RPC Calls: 20", "Total RPC Calls: 21"},
        std::pair{"Communication Time:\n  Total: 0.", "Communication Time:\n  Total: 7."},
        std::pair{"Total: 0.3000 s", "Total: 0.0001 s"}}) {
    std::string changed = text;
    changed.replace(changed.find(from), std::string_view(from).size(), to);
    const auto imported = import_text(changed, choice);
    ASSERT_TRUE(imported.ok()) << imported.status().message();
    EXPECT_FALSE(imported->header.wall_ns.has_value()) << to;
    EXPECT_EQ(imported->warnings.size(), 1U) << to;
  }
}

TEST(Import, finds_tokens_and_paths_in_the_bytes_outside_the_ring_up_to_the_cut) {
  const auto imported = import_text(text_of(data_path("prototype_logs/cut.log")), tiny_choice());
  ASSERT_TRUE(imported.ok()) << imported.status().message();
  expect_decodes(*imported);
  EXPECT_EQ(imported->header.tokens, 64);
  EXPECT_THAT(imported->header.assumed, Not(Contains("tokens")));
  ASSERT_EQ(imported->records.size(), 25U);
  EXPECT_THAT(imported->warnings, ElementsAre(HasSubstr("the last line has no end"),
                                              HasSubstr("cut off in prefill 2, after 5 of 20")));
  const auto& records = imported->records;
  EXPECT_EQ(records[2].outputs[0].path, Path::kZmq);   // scores
  EXPECT_EQ(records[3].inputs[0].path, Path::kZmq);    // weights of the values
  EXPECT_EQ(records[3].inputs[1].path, Path::kRing);   // values
  EXPECT_EQ(records[5].outputs[0].path, Path::kZmq);   // gate
  EXPECT_EQ(records[5].outputs[1].path, Path::kZmq);   // up
  EXPECT_EQ(records[6].inputs[0].path, Path::kZmq);    // down
  EXPECT_EQ(records[1].outputs[0].path, Path::kRing);  // queries
}

TEST(Import, refuses_bytes_that_are_no_set_of_the_tensors) {
  ImportChoice choice = tiny_choice();
  choice.tokens = 65;
  const auto imported = import_text(text_of(data_path("prototype_logs/cut.log")), choice);
  ASSERT_FALSE(imported.ok());
  EXPECT_EQ(imported.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(imported.status().message(), HasSubstr("x.log:8: received 65638 bytes"));
}

std::string line_of(std::uint64_t id, const std::string& method, const std::string& numbers) {
  return std::to_string(id) + " " + method + " " + numbers + "\n";
}
constexpr const char* kNumbers = "0.5 1 2 0.5 4 1 4 0.1 0.1";

TEST(Import, refuses_calls_that_are_not_the_plans_next) {
  const std::string embedding = line_of(1, "Embedding", kNumbers);
  for (const auto& [text, says] :
       {std::pair{line_of(1, "BatchLinear", kNumbers), "x.log:1: BatchLinear, but op 1"},
        std::pair{embedding + line_of(2, "LMHead", kNumbers), "x.log:2: LMHead, but op 2"},
        std::pair{embedding + line_of(2, "Init", kNumbers), "x.log:2: Init in the middle"},
        std::pair{embedding + embedding, "x.log:2: Embedding, but op 2"},
        std::pair{line_of(1, "Init", kNumbers), "x.log: no prefill in it"}}) {
    const auto imported = import_text(text, tiny_choice());
    ASSERT_FALSE(imported.ok()) << text;
    EXPECT_THAT(imported.status().message(), HasSubstr(says));
  }
}

TEST(Import, splits_a_call_into_parts_that_sum_to_its_total) {
  struct Parts {
    const char* numbers;
    std::uint64_t total, tee, wire, server;
  };
  for (const Parts& parts :
       {Parts{"0.5 1 2 0.5 4 1 4 0.1 0.1", 4'000'000, 1'000'000, 2'000'000, 1'000'000},
        Parts{"9 1 2 9 4 1 4 0.1 0.1", 4'000'000, 4'000'000, 0, 0},
        Parts{"1 1 2 1 4 9 4 0.1 0.1", 4'000'000, 2'000'000, 0, 2'000'000}}) {
    const auto imported = import_text(line_of(1, "Embedding", parts.numbers), tiny_choice());
    ASSERT_TRUE(imported.ok()) << imported.status().message();
    const TraceRecord& record = imported->records.at(0);
    EXPECT_EQ(record.times.total_ns, parts.total);
    EXPECT_EQ(record.times.tee_ns, parts.tee);
    EXPECT_EQ(record.times.wire_ns, parts.wire);
    EXPECT_EQ(record.times.queue_ns, 0U);
    EXPECT_EQ(record.times.server_ns, parts.server);
  }
}

TEST(Import, sees_attention_in_the_tee) {
  std::string text = line_of(1, "Embedding", kNumbers);
  for (std::uint64_t id = 2; id < 14; ++id) text += line_of(id, "BatchLinear", kNumbers);
  text += line_of(14, "LMHead", kNumbers);
  const auto imported = import_text(text, tiny_choice());
  ASSERT_TRUE(imported.ok()) << imported.status().message();
  EXPECT_EQ(imported->header.attention, "tee");
  EXPECT_THAT(imported->warnings, IsEmpty());
  ImportChoice choice = tiny_choice();
  choice.attention = Attention::kOffload;
  EXPECT_THAT(import_text(text, choice).status().message(),
              HasSubstr("x.log:3: BatchLinear, but op 3"));
}

// What the real logs' own summaries say, to their last digit.
struct Real {
  const char* file;
  std::uint64_t run;
  std::size_t calls;
  std::uint64_t zmq_bytes;
  std::optional<double> wall_s, comm_s, gpu_s;
};

class RealLogs : public testing::TestWithParam<Real> {};

TEST_P(RealLogs, gives_the_figures_of_its_summary) {
  const fs::path path = shared_data() / "prototype" / GetParam().file;
  if (!fs::exists(path)) {
    GTEST_SKIP() << "SKIPPED: no " << path
                 << "; set AIRLOCK_SHARED to the folder that holds prototype/";
  }
  const std::string text = text_of(path.string());
  const auto log = parse_prototype_log(text, GetParam().file);
  ASSERT_TRUE(log.ok()) << log.status().message();
  ImportChoice choice;
  choice.run = GetParam().run;
  const auto imported = import_log(*log, choice, GetParam().file);
  ASSERT_TRUE(imported.ok()) << imported.status().message();
  expect_decodes(*imported);
  EXPECT_EQ(imported->records.size(), GetParam().calls);
  const TraceFileSummary summary = summary_of(*imported);
  EXPECT_EQ(zmq_bytes(summary), GetParam().zmq_bytes);
  const auto rounded = [](double seconds) { return std::llround(seconds * 1e4); };
  if (GetParam().gpu_s) {
    EXPECT_EQ(rounded(static_cast<double>(summary.all.times.server_ns) / 1e9),
              rounded(*GetParam().gpu_s));
  }
  if (GetParam().wall_s) {
    ASSERT_TRUE(imported->header.wall_ns.has_value());
    EXPECT_EQ(rounded(static_cast<double>(*imported->header.wall_ns) / 1e9),
              rounded(*GetParam().wall_s));
  }
  if (GetParam().comm_s) {
    // Communication is the sum of the four columns; the trace's total adds what lies between them.
    std::uint64_t comm_ns = 0;
    for (std::size_t i = log->calls.size() - GetParam().calls; i < log->calls.size(); ++i) {
      const LogCall& call = log->calls[i];
      comm_ns += call.serialise_ns + call.send_ns + call.receive_ns + call.deserialise_ns;
    }
    EXPECT_EQ(rounded(static_cast<double>(comm_ns) / 1e9), rounded(*GetParam().comm_s));
    EXPECT_EQ(log->summary->calls, GetParam().calls);
  }
}

constexpr std::uint64_t kPlainZmqBytes = std::uint64_t{11} << 28;  // 2.75 GiB

INSTANTIATE_TEST_SUITE_P(
    Prototype, RealLogs,
    testing::Values(Real{"zmq_performance.log", 1, 98, kPlainZmqBytes, {}, {}, 0.326381},
                    Real{"zmq_performance.log", 2, 32, 880U << 20, {}, {}, 0.016316},
                    Real{"zmq_performance_otp.log", 2, 98, 0, 10.3433, 0.8757, 0.0438},
                    Real{"zmq_performance_ours.log", 2, 98, 0, 1.9065, 0.7421, 0.0233}));

TEST(RealLog, of_1024_tokens_tells_so) {
  const fs::path path = shared_data() / "prototype" / "zmq_performance.log";
  if (!fs::exists(path)) GTEST_SKIP() << "SKIPPED: no " << path;
  const auto imported = import_text(text_of(path.string()), ImportChoice());
  ASSERT_TRUE(imported.ok()) << imported.status().message();
  EXPECT_EQ(imported->header.tokens, 1024);
  EXPECT_EQ(imported->header.runs, 2U);
  EXPECT_EQ(imported->records.size(), 130U);
  EXPECT_THAT(imported->warnings, ElementsAre(HasSubstr("cut off in prefill 2, after 32 of 98")));
  EXPECT_THAT(imported->header.assumed, Not(Contains("tokens")));
  // Paths are those that Airlock's own limit gives.
  const auto ours =
      synthesise_records(kPrototypeDims, {1024, DType::kBF16, Attention::kOffload, Logits::kLast},
                         {true, limits::kDefaultSlotBytes, limits::kDefaultSlotCount});
  for (std::size_t i = 0; i < ours.size(); ++i) {
    EXPECT_EQ(imported->records[i].inputs, ours[i].inputs) << i;
    EXPECT_EQ(imported->records[i].outputs, ours[i].outputs) << i;
  }
}

}  // namespace
}  // namespace airlock::trace
