// Summaries and comparisons of traces whose figures are known.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "tests/model/temp_model.h"
#include "tests/tools/airlock_trace/trace_rig.h"
#include "tools/airlock_trace/diff.h"
#include "tools/airlock_trace/show.h"

namespace airlock::trace {
namespace {

using airlock::test::read_file;
using airlock::test::TempFolder;
using airlock::test::write_file;
using test::timed_trace;
using testing::HasSubstr;
using testing::Not;

TEST(Summary, adds_up_ops_and_paths) {
  const TempFolder folder;
  const Trace trace = timed_trace(64, 2);
  test::write(trace, folder.path("t"));
  const auto summary = summarise_trace(folder.path("t"));
  ASSERT_TRUE(summary.ok()) << summary.status().message();
  std::uint64_t total_ns = 0, bytes = 0, calls = 0, bytes_by_path = 0;
  for (const TraceRecord& record : trace.records) {
    total_ns += record.times.total_ns;
    bytes += record.bytes();
  }
  for (const OpSums& op : summary->ops) calls += op.calls;
  for (const PathSnapshot& path : summary->paths) {
    bytes_by_path += path.sent.bytes + path.received.bytes;
  }
  const OpSums& all = summary->all;
  const OpTimes& times = all.times;
  EXPECT_EQ(calls, trace.records.size());
  EXPECT_EQ(all.calls, trace.records.size());
  EXPECT_EQ(all.call_ns.count(), trace.records.size());
  EXPECT_EQ(times.total_ns, total_ns);
  EXPECT_EQ(times.tee_ns + times.wire_ns + times.queue_ns + times.server_ns, total_ns);
  EXPECT_EQ(all.bytes(), bytes);
  EXPECT_EQ(bytes_by_path, bytes);
  EXPECT_GT(summary->paths[Path::kZmq].sent.bytes, 0U);
  EXPECT_EQ(summary->busy.busy_ns(), total_ns);  // none overlap
  EXPECT_EQ(summary->between_ns(), *trace.header.wall_ns - total_ns);
}

TEST(Summary, counts_time_once_where_ops_overlap) {
  const TempFolder folder;
  const Trace trace = timed_trace(64, 1, 4000);  // each begins before the last has ended
  test::write(trace, folder.path("t"));
  const auto summary = summarise_trace(folder.path("t"));
  ASSERT_TRUE(summary.ok());
  const TraceRecord& last = trace.records.back();
  EXPECT_EQ(summary->busy.busy_ns(),
            last.start_ns + last.times.total_ns - trace.records.front().start_ns);
  EXPECT_LT(summary->busy.busy_ns(), summary->all.times.total_ns);
}

TEST(Summary, keeps_the_ops_that_took_longest) {
  const TempFolder folder;
  Trace trace = timed_trace(64);
  trace.records[7].times.wire_ns += 1'000'000;
  trace.records[7].times.total_ns += 1'000'000;
  test::write(trace, folder.path("t"));
  const auto summary = summarise_trace(folder.path("t"));
  ASSERT_TRUE(summary.ok());
  ASSERT_EQ(summary->by_time.size(), kBigOps);
  EXPECT_EQ(summary->by_time[0].seq, 7U);
  for (std::size_t i = 1; i < kBigOps; ++i) {
    EXPECT_GE(summary->by_time[i - 1].times.total_ns, summary->by_time[i].times.total_ns);
  }
}

TEST(Summary, survives_times_whose_sum_wraps) {
  const TempFolder folder;
  Trace trace = timed_trace(64, 40);
  const std::uint64_t year = 366ULL * 24 * 3600 * 1'000'000'000;
  for (TraceRecord& record : trace.records) {
    record.start_ns = 0;
    record.times.total_ns = record.times.server_ns = year;
    record.times.tee_ns = record.times.wire_ns = record.times.queue_ns = 0;
  }
  test::write(trace, folder.path("t"));
  const auto summary = summarise_trace(folder.path("t"));
  ASSERT_TRUE(summary.ok());
  EXPECT_EQ(summary->all.times.server_ns, std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(summary->busy.busy_ns(), year);
}

TEST(Show, says_the_same_in_each_form) {
  const TempFolder folder;
  const Trace trace = timed_trace(64);
  test::write(trace, folder.path("t"));
  const std::string file = folder.path("t");
  const auto md = show({file}, OutputForm::kMarkdown);
  const auto csv = show({file, file}, OutputForm::kCsv);
  const auto text = show({file, file}, OutputForm::kJson);
  ASSERT_TRUE(md.ok() && csv.ok() && text.ok());
  EXPECT_THAT(*md, HasSubstr("| matmul "));
  EXPECT_THAT(*md, HasSubstr("TEE between ops"));
  EXPECT_EQ(test::lines_of(*csv).size(), 1U + 2 * 5);  // four ops and all, of each file
  const auto json = nlohmann::json::parse(*text);
  ASSERT_EQ(json["traces"].size(), 2U);
  const auto& first = json["traces"][0];
  EXPECT_EQ(first["records"], trace.records.size());
  EXPECT_EQ(first["wall_ns"], *trace.header.wall_ns);
  EXPECT_EQ(first["ops"]["batch_linear"]["calls"], 12);
  EXPECT_TRUE(first["cut"].is_null());
  double shares = 0;
  for (const char* part : {"tee_between", "tee_in_ops", "wire", "queue", "server"}) {
    shares += first["shares"][part].get<double>();
  }
  EXPECT_NEAR(shares, 1, 1e-9);
}

TEST(Show, has_the_steps_of_an_answer) {
  const TempFolder folder;
  Trace trace = timed_trace(8, 3);
  test::write(trace, folder.path("prefills"));
  for (TraceRecord& record : trace.records) record.run = 0;
  test::write(trace, folder.path("answer"));
  const auto md = show({folder.path("answer")}, OutputForm::kMarkdown);
  const auto prefills = show({folder.path("prefills")}, OutputForm::kMarkdown);
  const auto text = show({folder.path("answer")}, OutputForm::kJson);
  ASSERT_TRUE(md.ok() && prefills.ok() && text.ok());
  EXPECT_THAT(*md, HasSubstr("| step "));
  EXPECT_THAT(*prefills, Not(HasSubstr("| step ")));
  const auto json = nlohmann::json::parse(*text)["traces"][0]["passes"];
  ASSERT_EQ(json.size(), 2U);
  EXPECT_EQ(json[0]["pass"], "prefill");
  EXPECT_EQ(json[0]["passes"], 1);
  EXPECT_EQ(json[1]["passes"], 2);
  EXPECT_EQ(json[1]["rows"], 16);
  EXPECT_EQ(json[1]["ops"], trace.records.size() / 3 * 2);
  EXPECT_EQ(json[1]["between_ns"], (trace.records.size() / 3 - 1) * 2 * 1000);
}

TEST(Show, tells_the_time_between_ops_only_where_it_is_known) {
  const TempFolder folder;
  Trace trace = timed_trace(64);
  const std::uint64_t wall = *trace.header.wall_ns;
  trace.header.wall_ns.reset();
  const auto between = [&] {
    test::write(trace, folder.path("t"));
    return summarise_trace(folder.path("t")).value().between_ns();
  };
  EXPECT_TRUE(between().has_value());  // a recording's starts were measured
  trace.header.source = TraceSource::kImported;
  EXPECT_EQ(between(), std::nullopt);
  const auto md = show({folder.path("t")}, OutputForm::kMarkdown);
  ASSERT_TRUE(md.ok());
  EXPECT_THAT(*md, HasSubstr("Wall unknown; an op was under way"));
  trace.header.wall_ns = wall;
  EXPECT_TRUE(between().has_value());
  trace.records[1].start_ns = 0;
  EXPECT_EQ(between(), std::nullopt);
}

TEST(Show, does_not_pass_control_characters_on) {
  const TempFolder folder;
  Trace trace = timed_trace(8);
  trace.header.model = "evil\x1b[2J\n\"";
  trace.header.build = "\xff";
  test::write(trace, folder.path("t"));
  const auto md = show({folder.path("t")}, OutputForm::kMarkdown);
  const auto json = show({folder.path("t")}, OutputForm::kJson);
  ASSERT_TRUE(md.ok() && json.ok());
  EXPECT_THAT(*md, Not(HasSubstr("\x1b")));
  EXPECT_TRUE(nlohmann::json::accept(*json));
}

TEST(Show, says_what_is_cut) {
  const TempFolder folder;
  test::write(timed_trace(64), folder.path("t"));
  const std::string whole = read_file(folder.path("t"));
  write_file(folder.path("cut"), whole.substr(0, whole.size() * 2 / 3));
  const auto summary = summarise_trace(folder.path("cut"));
  ASSERT_TRUE(summary.ok()) << summary.status().message();
  EXPECT_LT(summary->all.calls, 20U);
  EXPECT_GT(summary->all.calls, 0U);
  EXPECT_THAT(*show({folder.path("cut")}, OutputForm::kMarkdown), HasSubstr("was cut off"));
}

TEST(Diff, finds_equal_traces_equal) {
  const TempFolder folder;
  test::write(timed_trace(64), folder.path("a"));
  const auto compared = compare(folder.path("a"), folder.path("a"));
  ASSERT_TRUE(compared.ok());
  EXPECT_EQ(compared->compared, 20U);
  EXPECT_EQ(compared->differing, 0U);
  EXPECT_FALSE(compared->first.has_value());
  const auto text = diff(folder.path("a"), folder.path("a"), OutputForm::kJson);
  ASSERT_TRUE(text.ok());
  const auto json = nlohmann::json::parse(*text);
  EXPECT_EQ(json["shapes"]["same"], true);
  for (const auto& figure : json["figures"]) {
    EXPECT_EQ(figure["a"], figure["b"]);
    if (figure["a"] != 0) {
      EXPECT_EQ(figure["ratio"], 1.0) << figure;
    }
  }
  EXPECT_THAT(*diff(folder.path("a"), folder.path("a"), OutputForm::kMarkdown),
              HasSubstr("The 20 ops have the same shapes and paths."));
}

TEST(Diff, names_the_first_op_with_another_shape) {
  const TempFolder folder;
  test::write(timed_trace(64), folder.path("a"));
  test::write(timed_trace(32), folder.path("b"));
  const auto compared = compare(folder.path("a"), folder.path("b"));
  ASSERT_TRUE(compared.ok());
  EXPECT_EQ(compared->first, 0U);
  EXPECT_EQ(compared->differing, 19U);  // the logits of the last token are the same
  EXPECT_EQ(compared->first_a, "embedding int32[64] -> fp32[64x128]");
  for (const OutputForm form : {OutputForm::kMarkdown, OutputForm::kJson, OutputForm::kCsv}) {
    const auto text = diff(folder.path("a"), folder.path("b"), form);
    ASSERT_TRUE(text.ok());
    if (form == OutputForm::kJson) {
      EXPECT_EQ(nlohmann::json::parse(*text)["shapes"]["first_difference"]["position"], 0);
    }
  }
}

TEST(Diff, names_the_end_of_the_shorter_one) {
  const TempFolder folder;
  test::write(timed_trace(64), folder.path("a"));
  test::write(timed_trace(64, 2), folder.path("b"));
  const auto compared = compare(folder.path("a"), folder.path("b"));
  ASSERT_TRUE(compared.ok());
  EXPECT_EQ(compared->compared, 20U);
  EXPECT_EQ(compared->differing, 0U);
  EXPECT_EQ(compared->first, 20U);
  EXPECT_EQ(compared->first_a, "nothing");
}

TEST(Diff, counts_other_paths_where_shapes_are_the_same) {
  const TempFolder folder;
  Trace trace = timed_trace(64);
  test::write(trace, folder.path("a"));
  trace.records[4].inputs[0].path = Path::kZmq;
  test::write(trace, folder.path("b"));
  const auto compared = compare(folder.path("a"), folder.path("b"));
  ASSERT_TRUE(compared.ok());
  EXPECT_FALSE(compared->first.has_value());
  EXPECT_EQ(compared->other_paths, 1U);
}

}  // namespace
}  // namespace airlock::trace
