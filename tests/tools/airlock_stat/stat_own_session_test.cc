#include <gtest/gtest.h>

#include <string>

#include "tools/airlock_stat/source.h"

namespace airlock {
namespace {

SideReport counted() {
  SideReport report;
  report.side = "gpu_server";
  report.host = {"machine", "a CPU", 4, "cpu"};
  report.wall_ns = 5;
  report.transport[Path::kZmq].sent = {1, 2, 3};
  report.transport[Path::kRing].parks = 4;
  report.ops[Op::kPing] = {1, {10, 0, 2, 3, 5}};
  report.ops[Op::kMatmul] = {1, {10, 0, 2, 3, 5, {6, 7, 8}}};
  return report;
}

TEST(OwnSession, reads_what_a_server_reports) {
  const SideReport report = counted();
  const auto parsed = read_own_session(report_json(report));
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(parsed->transport, report.transport);
  EXPECT_EQ(parsed->ops, report.ops);
  EXPECT_EQ(parsed->host.cpu, "a CPU");
  EXPECT_EQ(parsed->host.cores, 4U);
  EXPECT_EQ(parsed->wall_ns, 5U);
}

TEST(OwnSession, refuses_what_is_no_report) {
  const std::string good = report_json(counted());
  for (const char* text : {"", "[]", "{}", "nonsense", "{\"host\":5}"}) {
    EXPECT_EQ(read_own_session(text).status().code(), StatusCode::kProtocolError) << text;
  }
  EXPECT_EQ(read_own_session(good.substr(0, good.size() / 2)).status().code(),
            StatusCode::kProtocolError);
}

TEST(OwnSession, refuses_a_count_that_is_none) {
  const std::string good = report_json(counted());
  for (const char* value : {"-4", "4.5", "\"4\"", "null", "{}"}) {
    std::string bad = good;
    const std::size_t at = bad.find("\"parks\":4");
    ASSERT_NE(at, std::string::npos);
    bad.replace(at, 9, std::string("\"parks\":") + value);
    EXPECT_EQ(read_own_session(bad).status().code(), StatusCode::kProtocolError) << value;
  }
}

TEST(OwnSession, refuses_times_of_a_device_that_are_none) {
  const std::string good = report_json(counted());
  for (const char* value : {"5", "[]", "{}", R"({"copy_in_ns":6,"compute_ns":7})",
                            R"({"copy_in_ns":6,"compute_ns":-7,"copy_out_ns":8})"}) {
    std::string bad = good;
    const std::string device = R"({"copy_in_ns":6,"compute_ns":7,"copy_out_ns":8})";
    const std::size_t at = bad.find(device);
    ASSERT_NE(at, std::string::npos);
    bad.replace(at, device.size(), value);
    EXPECT_EQ(read_own_session(bad).status().code(), StatusCode::kProtocolError) << value;
  }
}

TEST(OwnSession, takes_nothing_but_machine_paths_and_ops) {
  SideReport report = counted();
  report.config = {{"a", "b"}};
  report.sessions.emplace_back().client = "\x1b[2J";
  const auto parsed = read_own_session(report_json(report));
  ASSERT_TRUE(parsed.ok());
  EXPECT_TRUE(parsed->config.empty());
  EXPECT_TRUE(parsed->sessions.empty());
}

TEST(OwnSession, keeps_control_characters_from_the_terminal) {
  SideReport report = counted();
  report.host.name = "a\x1b[2Jb";
  const auto parsed = read_own_session(report_json(report));
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->host.name.find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace airlock
