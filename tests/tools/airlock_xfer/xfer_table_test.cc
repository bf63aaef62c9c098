#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/json/reader.h"
#include "tools/airlock_xfer/table.h"

namespace airlock::xfer {
namespace {

using ::testing::HasSubstr;

Measured measured(double one_way_ns) {
  Measured m;
  m.taken = "ring";
  m.iterations = 100;
  m.p50_ns = one_way_ns;
  m.p90_ns = one_way_ns * 2;
  m.p99_ns = one_way_ns * 3;
  m.max_ns = one_way_ns * 4;
  m.one_way_ns = one_way_ns;
  m.memcpy_ns = 500;
  return m;
}

std::vector<Row> three_rows() {
  return {{1000, Path::kRing, measured(1000)},
          {4000, Path::kRing, measured(2000)},
          {4000, Path::kZmq, std::nullopt}};
}

std::string text_of(OutputForm form, const Status& end) {
  std::string text;
  ResultTable table(form, [&text](std::string_view part) {
    text += part;
    return Status();
  });
  table.begin({{"command", "airlock_xfer \"-b\" 1"}});
  for (const Row& row : three_rows()) table.add(row);
  (void)table.finish(end);
  return text;
}

TEST(Percentile, is_a_value_that_was_measured) {
  const std::vector<double> sorted{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  EXPECT_EQ(percentile(sorted, 0.50), 5);
  EXPECT_EQ(percentile(sorted, 0.90), 9);
  EXPECT_EQ(percentile(sorted, 0.99), 10);
  EXPECT_EQ(percentile({7}, 0.50), 7);
  EXPECT_EQ(percentile({7}, 0.99), 7);
}

TEST(ResultTable, writes_markdown) {
  EXPECT_EQ(text_of(OutputForm::kMarkdown, {}),
            "# command: airlock_xfer \"-b\" 1\n"
            "\n"
            "|      bytes | path | taken | iterations |     p50 us |     p90 us |     p99 us |     "
            "max us "
            "|    GB/s |  x memcpy | #wrong |\n"
            "| ---------: | ---- | ----- | ---------: | ---------: | ---------: | ---------: | "
            "---------: "
            "| ------: | --------: | -----: |\n"
            "|       1000 | ring | ring  |        100 |      1.000 |      2.000 |      3.000 |     "
            " 4.000 "
            "|   1.000 |      2.00 |      0 |\n"
            "|       4000 | ring | ring  |        100 |      2.000 |      4.000 |      6.000 |     "
            " 8.000 "
            "|   2.000 |      4.00 |      0 |\n"
            "|       4000 | zmq  | n/a   |        n/a |        n/a |        n/a |        n/a |     "
            "   n/a "
            "|     n/a |       n/a |    n/a |\n"
            "\n"
            "# peak: ring 2.000 GB/s at 3.906 KiB\n"
            "# wrong bytes: 0\n");
}

TEST(ResultTable, writes_csv) {
  EXPECT_EQ(text_of(OutputForm::kCsv, {}),
            "# command: airlock_xfer \"-b\" 1\n"
            "bytes,path,taken,iterations,p50_us,p90_us,p99_us,max_us,gb_per_s,memcpy_ratio,"
            "wrong_bytes\n"
            "1000,ring,ring,100,1.000,2.000,3.000,4.000,1.000,2.00,0\n"
            "4000,ring,ring,100,2.000,4.000,6.000,8.000,2.000,4.00,0\n"
            "4000,zmq,n/a,n/a,n/a,n/a,n/a,n/a,n/a,n/a,n/a\n"
            "# peak: ring 2.000 GB/s at 3.906 KiB\n"
            "# wrong bytes: 0\n");
}

TEST(ResultTable, writes_json) {
  const auto parsed = parse_json(text_of(OutputForm::kJson, {}), "test");
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  EXPECT_EQ(parsed->find("schema_version")->integer, 1);
  EXPECT_EQ(parsed->find("run")->find("command")->text, "airlock_xfer \"-b\" 1");
  const auto& rows = parsed->find("rows")->items;
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[1].find("bytes")->integer, 4000);
  EXPECT_EQ(rows[1].find("path")->text, "ring");
  EXPECT_TRUE(rows[1].find("carried")->boolean);
  EXPECT_EQ(rows[1].find("taken")->text, "ring");
  EXPECT_EQ(rows[1].find("iterations")->integer, 100);
  EXPECT_EQ(rows[1].find("latency_ns")->find("p50")->integer, 2000);
  EXPECT_EQ(rows[1].find("latency_ns")->find("max")->integer, 8000);
  EXPECT_EQ(rows[1].find("gb_per_s")->integer, 2);
  EXPECT_EQ(rows[1].find("memcpy_ratio")->integer, 4);
  EXPECT_EQ(rows[1].find("wrong_bytes")->integer, 0);
  EXPECT_FALSE(rows[2].find("carried")->boolean);
  EXPECT_EQ(rows[2].find("taken"), nullptr);
  EXPECT_EQ(parsed->find("peak")->find("ring")->find("bytes")->integer, 4000);
  EXPECT_TRUE(parsed->find("ok")->boolean);
}

TEST(ResultTable, says_why_it_ended_early) {
  const Status end(StatusCode::kUnavailable, "the peer died");
  EXPECT_THAT(text_of(OutputForm::kMarkdown, end),
              HasSubstr("# ended early or failed: the peer died\n"));
  const auto parsed = parse_json(text_of(OutputForm::kJson, end), "test").value();
  EXPECT_FALSE(parsed.find("ok")->boolean);
  EXPECT_EQ(parsed.find("error")->text, "the peer died");
}

TEST(ResultTable, shows_markdown_rows_before_the_end) {
  std::string text;
  ResultTable table(OutputForm::kMarkdown, [&text](std::string_view part) {
    text += part;
    return Status();
  });
  table.begin({});
  table.add(three_rows()[0]);
  EXPECT_THAT(text, HasSubstr("|       1000 | ring |"));
}

TEST(ResultTable, that_cannot_be_written_is_no_success) {
  for (const OutputForm form : {OutputForm::kMarkdown, OutputForm::kCsv, OutputForm::kJson}) {
    std::size_t calls = 0;
    ResultTable table(form, [&calls](std::string_view) {
      ++calls;
      return Status(StatusCode::kResourceExhausted, "full");
    });
    table.begin({});
    table.add(three_rows()[0]);
    EXPECT_EQ(table.finish({}).code(), StatusCode::kResourceExhausted);
    EXPECT_EQ(table.finish({StatusCode::kUnavailable, "gone"}).code(), StatusCode::kUnavailable);
    EXPECT_EQ(calls, 1U) << "nothing comes after what is missing";
  }
}

TEST(ResultTable, shows_bytes_that_were_wrong) {
  std::string text;
  ResultTable table(OutputForm::kCsv, [&text](std::string_view part) {
    text += part;
    return Status();
  });
  Row row = three_rows()[0];
  row.measured->wrong_bytes = 17;
  table.begin({});
  table.add(row);
  (void)table.finish({});
  EXPECT_THAT(text, HasSubstr(",2.00,17\n"));
  EXPECT_THAT(text, HasSubstr("# wrong bytes: 17\n"));
}

TEST(ResultTable, says_where_both_processes_shared_a_cpu) {
  std::string text;
  ResultTable table(OutputForm::kMarkdown, [&text](std::string_view part) {
    text += part;
    return Status();
  });
  Row row = three_rows()[0];
  row.measured->same_cpu_share = 0.9;
  table.begin({});
  table.add(row);
  table.add(three_rows()[1]);
  (void)table.finish({});
  EXPECT_THAT(text, HasSubstr("# one CPU: in 1 of 2 rows"));
}

}  // namespace
}  // namespace airlock::xfer
