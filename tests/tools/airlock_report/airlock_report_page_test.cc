#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "tests/stats/sample_reports.h"
#include "tests/trace/sample_trace.h"
#include "tools/airlock_report/page.h"

namespace airlock::report {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr std::string_view kScript = "<script>alert(1)</script>";

ReportedTrace trace_of(const std::vector<TraceRecord>& records,
                       const TraceHeader& header = sample_header()) {
  ReportedTrace trace{TraceFileSummary("t", header), Bins(64), {{PassBins(2), PassBins(2)}}};
  const auto take = [&trace](const std::optional<TracePass>& pass) {
    if (pass) trace.pass_bins[pass->kind].add(pass->sums);
  };
  for (const TraceRecord& record : records) {
    take(trace.add(record));
    trace.bins.add(record.start_ns, record.end_ns(), record);
  }
  take(trace.end());
  return trace;
}

ReportedTrace sample_trace(const TraceHeader& header = sample_header(), std::string cut = {}) {
  ReportedTrace trace =
      trace_of({sample_record(0, 0, 1000), sample_record(1, 5000, 2000, Path::kZmq)}, header);
  trace.cut = std::move(cut);
  return trace;
}

/// Passes of `rows` tokens each: an embedding of `ns`, and lm_head of as long 1000 ns behind it.
std::vector<TraceRecord> answer_records(const std::vector<std::int64_t>& rows, std::uint64_t ns) {
  std::vector<TraceRecord> records;
  for (const std::int64_t count : rows) {
    for (const Op op : {Op::kEmbedding, Op::kLmHead}) {
      const std::uint64_t seq = records.size();
      TraceRecord& record = records.emplace_back(sample_record(seq, seq * (ns + 1000), ns));
      record.op = op;
      record.inputs = {{{DType::kI32, {count}}, Path::kRing, {}}};
    }
  }
  return records;
}

std::string page_of(const std::vector<Input>& inputs) {
  return render_page(inputs, {"airlock 0.1.0", "2026-11-21T16:40:00Z"});
}

std::string cell(std::string_view key, std::uint64_t value) {
  return "data-key=\"" + std::string(key) + "\" data-value=\"" + std::to_string(value) + "\"";
}

TEST(ReportPage, holds_the_exact_numbers_of_its_inputs) {
  const std::string page = page_of({{"r.json", sample_runner()}, {"t.jsonl", sample_trace()}});
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.ops.matmul.wire_ns", 16'303'145)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.tee.rmsnorm.total_ns", 798'478)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.paths.zmq.sent.bytes", 23'328'000)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.paths.ring.latency_ns.p50", 61'439)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.wall_ns", 66'112'807)));
  EXPECT_THAT(page, HasSubstr("<bdi>r.json</bdi> <span class=\"soft\">tee_runner</span>"));
  EXPECT_THAT(page, HasSubstr("<bdi>t.jsonl</bdi> <span class=\"soft\">trace</span>"));
  EXPECT_THAT(page, HasSubstr(cell("inputs.1.records", 2)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.1.by_time.0.total_ns", 2000)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.1.sides.between_ns", 4000)));
}

TEST(ReportPage, shows_time_on_a_device_only_where_there_is_some) {
  const std::string page = page_of({{"s.json", sample_server()}});
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.ops.matmul.device.copy_in_ns", 1'011)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.ops.matmul.device.compute_ns", 4'000'022)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.ops.matmul.device.copy_out_ns", 2'033)));
  EXPECT_THAT(page_of({{"r.json", sample_runner()}, {"t", sample_trace()}}),
              Not(HasSubstr("Time on the device")));
}

TEST(ReportPage, has_the_passes_of_an_answer_and_their_time) {
  const std::string page = page_of({{"t", trace_of(answer_records({8, 1, 1, 1}, 2000))}});
  const std::string steps = "inputs.0.passes.step.";
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.passes.prefill.count", 1)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.passes.prefill.rows", 8)));
  EXPECT_THAT(page, HasSubstr(cell(steps + "count", 3)));
  EXPECT_THAT(page, HasSubstr(cell(steps + "rows", 3)));
  EXPECT_THAT(page, HasSubstr(cell(steps + "ops", 6)));
  EXPECT_THAT(page, HasSubstr(cell(steps + "wall_ns", 3 * 5000)));
  EXPECT_THAT(page, HasSubstr(cell(steps + "between_ns", 3 * 1000)));
  EXPECT_THAT(page, HasSubstr(cell(steps + "wire_ns", 3 * 4000)));
  EXPECT_THAT(page, HasSubstr(cell(steps + "p50_ns", 5000)));
  EXPECT_THAT(page, HasSubstr(cell(steps + "p90_ns", 5000)));
  // Two intervals at most: the first two steps share one.
  EXPECT_THAT(page, HasSubstr(cell(steps + "bins.0.rows", 2)));
  EXPECT_THAT(page, HasSubstr(cell(steps + "bins.2.wire_ns", 4000)));
  EXPECT_THAT(page, HasSubstr("Time of steps of an answer"));
  EXPECT_THAT(page, HasSubstr("the mean of 2 in a row"));
}

TEST(ReportPage, has_the_passes_of_a_trace_without_times_and_no_time_of_them) {
  const std::string page = page_of({{"t", trace_of([] {
                                       auto records = answer_records({8, 1}, 0);
                                       for (TraceRecord& record : records) record.start_ns = 0;
                                       return records;
                                     }())}});
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.passes.step.rows", 1)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.passes.step.bins.0.ops", 2)));
  EXPECT_THAT(page, Not(HasSubstr("passes.step.wall_ns")));
  EXPECT_THAT(page, Not(HasSubstr("Time of steps")));
}

TEST(ReportPage, has_no_passes_where_no_embedding_was_seen) {
  EXPECT_THAT(page_of({{"t", sample_trace()}}), Not(HasSubstr("Passes and steps")));
}

TEST(ReportPage, shows_what_a_runner_of_words_counted) {
  SideReport runner = sample_runner();
  EXPECT_THAT(page_of({{"r", runner}}), Not(HasSubstr("id=\"text\"")));
  runner.text = sample_text();
  const std::string page = page_of({{"r", runner}});
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.text.generated_tokens", 25)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.text.cache_peak_bytes", 65'536)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.text.ttft_ns.count", 3)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.text.ttft_ns.max", 900'000)));
  EXPECT_THAT(page,
              HasSubstr(cell("inputs.0.text.itl_ns.p50", runner.text->itl_ns.percentile(0.5))));
  EXPECT_THAT(page, HasSubstr("Histogram of 3 prompts"));
}

TEST(ReportPage, merges_the_words_of_several_runners) {
  SideReport runner = sample_runner();
  runner.text = sample_text();
  const std::string page = page_of({{"a", runner}, {"b", runner}, {"c", sample_runner()}});
  EXPECT_THAT(page, HasSubstr(cell("inputs.1.text.ttft_ns.count", 3)));
  EXPECT_THAT(page, HasSubstr(cell("merged.tee_runner.text.ttft_ns.count", 6)));
  EXPECT_THAT(page, Not(HasSubstr("inputs.2.text")));
}

TEST(ReportPage, escapes_every_text_of_its_inputs) {
  const std::string bad(kScript);
  SideReport runner = sample_runner();
  runner.host = {bad, bad, 2, bad};
  runner.config = {{bad, bad}, {"model", bad}, {"epoch", bad}};
  SideReport server = sample_server();
  server.sessions[0].id = bad;
  server.sessions[0].client = bad;
  TraceHeader header = sample_header();
  header.model = header.build = header.started_at = header.digest = header.payload = bad;
  header.host = {bad, bad, 2, bad};
  header.assumed = {bad};
  const std::string page =
      page_of({{bad, runner}, {bad, server}, {bad, sample_trace(header, bad)}});
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;"));
}

TEST(ReportPage, forbids_everything_but_its_own_style) {
  const std::string page = page_of({{"r.json", sample_runner()}});
  EXPECT_THAT(page,
              HasSubstr("http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                        "style-src 'unsafe-inline';"));
  for (const char* outside : {"http://", "https://", "src=", "@import", "<link", "<script"})
    EXPECT_THAT(page, Not(HasSubstr(outside))) << outside;
}

TEST(ReportPage, merges_histograms_of_one_side_and_averages_nothing) {
  SideReport other = sample_runner();
  HistogramSnapshot& ring = other.transport[Path::kRing].latency_ns;
  ring = histogram_of({1'000'000, 1'000'000, 1'000'000, 1'000'000, 1'000'000, 1'000'000});
  HistogramSnapshot merged = sample_runner().transport[Path::kRing].latency_ns;
  merged.merge(ring);
  const std::string page = page_of({{"a.json", sample_runner()}, {"b.json", other}});
  const std::string prefix = "merged.tee_runner.paths.ring.latency_ns.";
  EXPECT_THAT(page, HasSubstr(cell(prefix + "count", 10)));
  EXPECT_THAT(page, HasSubstr(cell(prefix + "p50", merged.percentile(0.5))));
  EXPECT_THAT(page, HasSubstr(cell(prefix + "p99", 1'000'000)));
}

TEST(ReportPage, says_whether_both_sides_agree) {
  EXPECT_THAT(page_of({{"r", sample_runner()}, {"s", sample_server()}}),
              HasSubstr(cell("inputs.0.agree", 1)));
  SideReport lossy = sample_server();
  lossy.sessions[0].transport[Path::kZmq].received.bytes -= 1;
  const std::string page = page_of({{"r", sample_runner()}, {"s", lossy}});
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.agree", 0)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.reconcile.zmq.requests", 0)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.reconcile.ring.requests", 1)));
}

TEST(ReportPage, does_not_compare_a_runner_with_the_session_of_another) {
  SideReport server = sample_server();
  server.sessions[0].id = "another";
  EXPECT_THAT(page_of({{"r", sample_runner()}, {"s", server}}),
              HasSubstr("has no session of this runner"));
}

TEST(ReportPage, invents_no_time_between_ops) {
  TraceHeader header = sample_header();
  header.source = TraceSource::kImported;
  const std::string page = page_of({{"t", sample_trace(header)}});
  EXPECT_THAT(page, Not(HasSubstr("sides.between_ns")));
  EXPECT_THAT(page, HasSubstr("between ops (TEE) not known"));
}

TEST(ReportPage, does_not_compare_a_runner_that_has_no_session_of_its_own) {
  SideReport runner = sample_runner();
  runner.config = {};
  const std::string page = page_of({{"r", runner}, {"s", sample_server()}});
  EXPECT_THAT(page, HasSubstr("is not of one session alone"));
  EXPECT_THAT(page, Not(HasSubstr("epoch")));
  EXPECT_THAT(page, Not(HasSubstr("inputs.0.agree")));
}

TEST(ReportPage, names_each_number_once_where_a_trace_has_a_seq_twice) {
  const std::string page =
      page_of({{"t", trace_of({sample_record(7, 0, 1000), sample_record(7, 5000, 2000)})}});
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.by_time.0.total_ns", 2000)));
  EXPECT_THAT(page, HasSubstr(cell("inputs.0.by_time.1.total_ns", 1000)));
  std::set<std::string> keys;
  for (std::size_t at = 0; (at = page.find("data-key=\"", at)) != std::string::npos;) {
    at += 10;
    const std::string key = page.substr(at, page.find('"', at) - at);
    EXPECT_TRUE(keys.insert(key).second) << key;
  }
}

TEST(ReportPage, says_what_a_trace_lacks) {
  TraceHeader header = sample_header();
  header.dropped = 3;
  header.assumed = {"tokens"};
  const std::string page =
      page_of({{"t", sample_trace(header, "t was cut off: it ends after 2 ops")}});
  EXPECT_THAT(page, HasSubstr("t was cut off: it ends after 2 ops"));
  EXPECT_THAT(page, HasSubstr("3 ops are missing"));
  EXPECT_THAT(page, HasSubstr("counts as between ops"));
  EXPECT_THAT(page, HasSubstr("assumed by the import: tokens"));
}

TEST(ReportPage, of_an_empty_trace_and_empty_statistics_is_whole) {
  SideReport nothing;
  nothing.side = "tee_runner";
  const std::string page = page_of({{"r", nothing}, {"t", trace_of({})}});
  EXPECT_TRUE(page.ends_with("</html>\n"));
  EXPECT_THAT(page, HasSubstr("This trace has no times"));
}

}  // namespace
}  // namespace airlock::report
