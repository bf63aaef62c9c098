#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/stats/sample_reports.h"

namespace airlock {
namespace {

Result<SideReport> read(const std::string& text) { return read_report(text, "FILE"); }

/// The runner's statistics with the first `from` replaced.
std::string changed(std::string from, std::string to, const SideReport& report = sample_runner()) {
  std::string text = report_json(report);
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

void expect_refused(const std::string& text, const std::string& message) {
  const auto report = read(text);
  ASSERT_FALSE(report.ok()) << text;
  EXPECT_EQ(report.status().code(), StatusCode::kInvalidInput);
  EXPECT_EQ(report.status().message(), message);
}

TEST(ReadReport, reads_back_what_a_runner_writes) {
  const SideReport written = sample_runner();
  const auto report = read(report_json(written));
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(report->side, "tee_runner");
  EXPECT_EQ(report->host.cpu, "AMD EPYC");
  EXPECT_EQ(report->config, written.config);
  EXPECT_EQ(report->transport, written.transport);
  EXPECT_EQ(report->ops, written.ops);
  EXPECT_EQ(report->tee, written.tee);
  EXPECT_EQ(report->wall_ns, written.wall_ns);
}

TEST(ReadReport, reads_back_what_a_runner_of_words_writes) {
  SideReport written = sample_runner();
  written.text = sample_text();
  const auto report = read(report_json(written));
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(report->text, written.text);
  EXPECT_EQ(read(report_json(sample_runner()))->text, std::nullopt);
  expect_refused(changed("\"begun\":3", "\"begun\":-3", written),
                 "FILE: 'text.begun' is -3, expected an integer from 0 to 72057594037927936");
  expect_refused(changed("\"ttft_ns\":{\"p50\":212991", "\"ttft_ns\":{\"p50\":1", written),
                 "FILE: 'text.ttft_ns.p50' is 1, expected 212991, as its buckets say");
}

TEST(ReadReport, reads_back_what_a_server_writes) {
  const SideReport written = sample_server();
  const auto report = read(report_json(written));
  ASSERT_TRUE(report.ok()) << report.status().message();
  ASSERT_EQ(report->sessions.size(), 1U);
  EXPECT_EQ(report->sessions[0].client, "tee_runner pid 7");
  EXPECT_EQ(report->sessions[0].transport, written.sessions[0].transport);
  EXPECT_EQ(report->sessions[0].ops, written.sessions[0].ops);
  EXPECT_EQ(report->ops, written.ops);
}

TEST(ReadReport, refuses_times_of_a_device_that_are_none) {
  expect_refused(changed("\"compute_ns\":4000022", "\"other_ns\":4000022", sample_server()),
                 "FILE: 'ops.matmul.device.compute_ns' is missing");
  expect_refused(changed("\"copy_in_ns\":1011", "\"copy_in_ns\":-1", sample_server()),
                 "FILE: 'ops.matmul.device.copy_in_ns' is -1, expected an integer from 0 to "
                 "72057594037927936");
  expect_refused(changed("\"device\":{\"copy_in_ns\":1011,\"compute_ns\":4000022,"
                         "\"copy_out_ns\":2033}",
                         "\"device\":7", sample_server()),
                 "FILE: 'ops.matmul.device' is 7, expected an object");
}

TEST(ReadReport, ignores_keys_that_it_does_not_know) {
  EXPECT_TRUE(read(changed("\"side\"", "\"later\":{\"a\":[1]},\"side\"")).ok());
}

TEST(ReadReport, refuses_another_version) {
  expect_refused(changed("\"schema_version\":1", "\"schema_version\":2"),
                 "FILE: 'schema_version' is 2, expected 1");
}

TEST(ReadReport, refuses_another_side) {
  expect_refused(changed("\"tee_runner\"", "\"router\""),
                 "FILE: 'side' is \"router\", expected tee_runner or gpu_server");
}

TEST(ReadReport, refuses_what_is_no_object) {
  expect_refused("[1]", "FILE: is [1], expected an object");
}

TEST(ReadReport, names_a_key_that_is_missing) {
  expect_refused(changed("\"wall_ns\"", "\"other\""), "FILE: 'wall_ns' is missing");
  expect_refused(changed("\"zmq\"", "\"tcp\""), "FILE: 'paths.zmq' is missing");
}

TEST(ReadReport, refuses_a_negative_number) {
  expect_refused(changed("\"bytes\":5136", "\"bytes\":-1"),
                 "FILE: 'paths.ring.sent.bytes' is -1, expected an integer from 0 to "
                 "72057594037927936");
}

TEST(ReadReport, refuses_a_number_beyond_the_limit) {
  expect_refused(changed("\"wire_ns\":16303145", "\"wire_ns\":72057594037927937"),
                 "FILE: 'ops.matmul.wire_ns' is 72057594037927937, expected an integer from 0 to "
                 "72057594037927936");
}

TEST(ReadReport, refuses_a_number_that_is_no_integer) {
  EXPECT_FALSE(read(changed("\"calls\":18", "\"calls\":1.5")).ok());
  EXPECT_FALSE(read(changed("\"calls\":18", "\"calls\":\"18\"")).ok());
  EXPECT_FALSE(read(changed("\"calls\":18", "\"calls\":18446744073709551615")).ok());
  EXPECT_FALSE(read(changed("\"calls\":18", "\"calls\":null")).ok());
}

TEST(ReadReport, refuses_a_bucket_that_is_none) {
  expect_refused(changed("[[3,1],", "[[9999,1],"),
                 "FILE: 'paths.ring.latency_ns.buckets.0.0' is 9999, expected the upper edge of a "
                 "bucket, ascending, the last one that of max");
  expect_refused(changed("[[3,1],", "[[3,0],"),
                 "FILE: 'paths.ring.latency_ns.buckets.0.1' is 0, expected an integer from 1 to "
                 "1099511627776");
  expect_refused(changed("[[3,1],", "[[3,1],[3,1],"),
                 "FILE: 'paths.ring.latency_ns.buckets.1.0' is 3, expected the upper edge of a "
                 "bucket, ascending, the last one that of max");
  expect_refused(changed("[[3,1],", "[7,"),
                 "FILE: 'paths.ring.latency_ns.buckets.0' is 7, expected an array of at most 2");
  expect_refused(changed("[[3,1],", "[[3],"),
                 "FILE: 'paths.ring.latency_ns.buckets.0' is [3], expected an upper edge and a "
                 "count");
}

TEST(ReadReport, refuses_percentiles_that_are_not_those_of_the_buckets) {
  expect_refused(changed("\"p50\":61439", "\"p50\":61438"),
                 "FILE: 'paths.ring.latency_ns.p50' is 61438, expected 61439, as its buckets say");
}

TEST(ReadReport, refuses_a_greatest_value_under_the_last_bucket) {
  expect_refused(changed("\"max\":81080", "\"max\":4"),
                 "FILE: 'paths.ring.latency_ns.buckets.1.0' is 61439, expected the upper edge of a "
                 "bucket, ascending, the last one that of max");
}

TEST(ReadReport, refuses_texts_that_are_none_or_too_long) {
  EXPECT_FALSE(read(changed("\"box\"", "7")).ok());
  EXPECT_FALSE(read(changed("\"tiny.json\"", "{}")).ok());
  EXPECT_FALSE(read(changed("\"box\"", "\"" + std::string(4097, 'x') + "\"")).ok());
}

TEST(ReadReport, refuses_too_many_entries) {
  SideReport report = sample_runner();
  for (std::size_t i = 0; i < 64; ++i) report.config.emplace_back(std::to_string(i), "");
  expect_refused(report_json(report), "FILE: 'config' has 67 entries, expected at most 64");
  SideReport server = sample_server();
  server.sessions.assign(4097, SessionReport{});
  EXPECT_FALSE(read(report_json(server)).ok());
}

TEST(ReadReport, names_the_session_that_is_bad) {
  SideReport server = sample_server();
  server.sessions.push_back(server.sessions[0]);
  std::string text = report_json(server);
  const std::size_t at = text.rfind("\"client\":\"");
  expect_refused(text.replace(at, 10, "\"klient\":\""), "FILE: 'sessions.1.client' is missing");
}

TEST(ReadReport, survives_any_change_of_bytes) {
  std::mt19937 random(1);  // NOLINT: a test repeats itself
  for (const std::string& whole : {report_json(sample_runner()), report_json(sample_server())}) {
    for (int i = 0; i < 3000; ++i) {
      std::string text = whole;
      for (unsigned changes = 1 + random() % 3; changes != 0; --changes) {
        const std::size_t at = random() % text.size();
        switch (random() % 3) {
          case 0:
            text[at] = static_cast<char>(random());
            break;
          case 1:
            text.erase(at, random() % 20);
            break;
          default:
            text.insert(at, text.substr(random() % text.size(), random() % 30));
        }
        if (text.empty()) text.push_back('{');
      }
      const auto report = read(text);
      if (!report.ok()) {
        EXPECT_TRUE(report.status().message().starts_with("FILE: "));
      }
    }
  }
}

}  // namespace
}  // namespace airlock
