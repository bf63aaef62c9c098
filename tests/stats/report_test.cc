#include "runtime/stats/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace airlock {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

SideReport runner_report() {
  SideReport report;
  report.side = "tee_runner";
  report.host = {"box", "some cpu", 2, "cpu"};
  report.config = {{"wire", "bf16"}, {"model", "m"}};
  PathSnapshot& ring = report.transport[Path::kRing];
  ring.sent = {1, 2, 3 << 20};
  ring.received = {4, 5, 6};
  ring.errors = 7;
  ring.slot_waits = 8;
  ring.spins = 9;
  ring.parks = 10;
  Histogram latency;
  latency.record(3);
  latency.record(5);
  ring.latency_ns = latency.snapshot();
  report.ops[Op::kBatchLinear] = {1, {15, 1, 2, 4, 8}};
  report.tee[TeeKernel::kRope] = {11, 12'000'000};
  report.wall_ns = 2'500'000'000;
  return report;
}

SideReport server_report() {
  SideReport report = runner_report();
  report.side = "gpu_server";
  report.tee = {};
  report.sessions.resize(2);
  report.sessions[0].id = "s1";
  report.sessions[0].client = "alice";
  report.sessions[0].transport = report.transport;
  report.sessions[0].ops = report.ops;
  report.sessions[1].id = "s2";
  return report;
}

TEST(ReportJson, holds_what_the_interface_promises) {
  const json report = json::parse(report_json(runner_report()));
  EXPECT_EQ(report["schema_version"], 1);
  EXPECT_EQ(report["side"], "tee_runner");
  EXPECT_EQ(report["host"],
            json::parse(R"({"name":"box","cpu":"some cpu","cores":2,"device":"cpu"})"));
  EXPECT_EQ(report["config"], json::parse(R"({"wire":"bf16","model":"m"})"));
  EXPECT_EQ(report["wall_ns"], 2'500'000'000);
  EXPECT_EQ(report["paths"]["ring"],
            json::parse(R"({"sent":{"messages":1,"tensors":2,"bytes":3145728},
    "received":{"messages":4,"tensors":5,"bytes":6},"errors":7,"slot_waits":8,"fallbacks":0,"spins":9,"parks":10,
    "latency_ns":{"p50":3,"p90":5,"p99":5,"max":5,"buckets":[[3,1],[5,1]]}})"));
  EXPECT_EQ(report["paths"]["zmq"]["latency_ns"]["buckets"], json::array());
  EXPECT_EQ(report["tee"]["rope"], json::parse(R"({"calls":11,"total_ns":12000000})"));
}

TEST(ReportJson, says_what_a_gpu_says_of_itself) {
  SideReport report = runner_report();
  report.host.device = "cuda:0 NVIDIA H100";
  report.host.gpu = {"13.0", "13.1", "13.2", std::size_t{80} << 30};
  EXPECT_EQ(json::parse(report_json(report))["host"],
            json::parse(R"({"name":"box","cpu":"some cpu","cores":2,"device":"cuda:0 NVIDIA H100",
    "driver":"13.0","cuda_runtime":"13.1","cublas":"13.2","device_memory_bytes":85899345920})"));
}

TEST(ReportJson, lists_all_ops_and_all_kernels) {
  const json report = json::parse(report_json(runner_report()));
  EXPECT_EQ(report["ops"].size(), kCountOf<Op>);
  EXPECT_EQ(report["tee"].size(), kCountOf<TeeKernel>);
  EXPECT_EQ(report["ops"]["batch_linear"],
            json::parse(
                R"({"calls":1,"total_ns":15,"tee_ns":1,"wire_ns":2,"queue_ns":4,"server_ns":8})"));
  EXPECT_EQ(report["ops"]["lm_head"]["calls"], 0);
}

TEST(ReportJson, tells_of_a_device_only_where_an_op_used_it) {
  SideReport report = server_report();
  report.ops[Op::kLmHead] = {1, {15, 1, 2, 4, 8, {0, 5, 2}}};
  const json ops = json::parse(report_json(report))["ops"];
  EXPECT_EQ(ops["lm_head"]["device"],
            json::parse(R"({"copy_in_ns":0,"compute_ns":5,"copy_out_ns":2})"));
  EXPECT_FALSE(ops["batch_linear"].contains("device"));
}

TEST(ReportJson, gives_sessions_on_the_server_only) {
  EXPECT_FALSE(json::parse(report_json(runner_report())).contains("sessions"));
  const json report = json::parse(report_json(server_report()));
  EXPECT_FALSE(report.contains("tee"));
  ASSERT_EQ(report["sessions"].size(), 2U);
  EXPECT_EQ(report["sessions"][0]["client"], "alice");
  EXPECT_EQ(report["sessions"][0]["paths"], report["paths"]);
  EXPECT_EQ(report["sessions"][0]["ops"], report["ops"]);
}

TEST(ReportJson, survives_a_name_that_is_not_utf8) {
  SideReport report = server_report();
  report.sessions[0].client = "\xff\xfe";
  EXPECT_TRUE(json::accept(report_json(report)));
}

TEST(ReportTable, shows_paths_ops_kernels_and_time) {
  const std::string table = report_table(runner_report());
  for (const char* text :
       {"2.500 s", "ring", "3.00", "slot waits", "batch_linear", "rope", "12.00"}) {
    EXPECT_THAT(table, HasSubstr(text));
  }
  EXPECT_THAT(table, Not(HasSubstr("lm_head")));
  EXPECT_THAT(table, Not(HasSubstr("zmq")));
}

TEST(ReportTable, shows_time_on_a_device_only_where_an_op_used_it) {
  SideReport report = server_report();
  EXPECT_THAT(report_table(report), Not(HasSubstr("copy in ms")));
  report.ops[Op::kLmHead].times.device = {1'230'000, 4'560'000, 7'890'000};
  const std::string table = report_table(report);
  EXPECT_THAT(table, HasSubstr("device   copy in ms  compute ms  copy out ms\n"
                               "lm_head        1.23        4.56         7.89\n"));
}

TEST(ReportTable, shows_each_session) {
  EXPECT_THAT(report_table(server_report()), testing::AllOf(HasSubstr("alice"), HasSubstr("s2")));
}

TEST(ReportTable, says_so_when_nothing_crossed) {
  SideReport report;
  report.side = "gpu_server";
  EXPECT_THAT(report_table(report), HasSubstr("no message crossed"));
}

TEST(SideReport, merging_all_sessions_gives_the_sum) {
  const SessionReport session = server_report().sessions[0];
  SideReport sum;
  sum.merge(session);
  sum.merge(session);
  EXPECT_EQ(sum.transport[Path::kRing].sent.messages, 2U);
  EXPECT_EQ(sum.ops[Op::kBatchLinear].times.total_ns, 30U);
}

TEST(SessionReport, keeps_the_counters_of_older_sessions) {
  SessionReport first = server_report().sessions[0];
  SessionReport second = first;
  second.merge_older(first);
  EXPECT_EQ(second.sessions, 2U);
  EXPECT_EQ(second.transport[Path::kRing].received.bytes, 12U);
}

TEST(DescribeHost, names_the_machine_and_the_device) {
  const HostReport host = describe_host("cuda:0");
  EXPECT_EQ(host.device, "cuda:0");
  EXPECT_FALSE(host.cpu.empty());
}

}  // namespace
}  // namespace airlock
