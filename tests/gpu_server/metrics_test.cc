#include "gpu_server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/metric_family.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tests/gpu_server/server_rig.h"

namespace airlock::testing {
namespace {

using ::testing::HasSubstr;

CountersSnapshot counted() {
  CountersSnapshot snapshot;
  snapshot.report.transport[Path::kRing].sent = {1, 2, 3000};
  snapshot.report.transport[Path::kZmq].errors = 4;
  Histogram histogram;
  for (const std::uint64_t ns :
       {std::uint64_t{1}, (std::uint64_t{1} << 13) - 1, std::uint64_t{1} << 13, ~std::uint64_t{0}})
    histogram.record(ns);
  snapshot.service_ns[Op::kBatchLinear] = histogram.snapshot();
  snapshot.report.ops[Op::kBatchLinear] = {4,
                                           {6'000'000'000,
                                            0,
                                            1'000'000'000,
                                            2'000'000'000,
                                            3'000'000'000,
                                            {500'000'000, 2'000'000'000, 250'000'000}}};
  snapshot.server.host.device = "a \"device\"";
  return snapshot;
}

Result<std::unique_ptr<MetricsEndpoint>> start(const std::string& address,
                                               std::function<CountersSnapshot()> counters) {
  return MetricsEndpoint::start(address, false,
                                {std::move(counters), [] { return Status(); },
                                 [] { return Status(StatusCode::kUnavailable, "not yet"); }});
}

TEST(Metrics, address_is_numeric_host_and_port) {
  for (const char* good : {"127.0.0.1:9464", "127.0.0.1:0", "localhost:9464", "[::1]:9464"})
    EXPECT_TRUE(check_metrics_address(good, false).ok()) << good;
  for (const char* bad : {"", "9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x",
                          "127.0.0.1:65536", "127.0.0.1:*", "a.b:1", "127.0.0.1,8080:1",
                          "127.1:9464", "+1:2", "[::1:9464", "127.0.0.1:9464s"})
    EXPECT_EQ(check_metrics_address(bad, true).code(), StatusCode::kUsage) << bad;
}

TEST(Metrics, stay_on_loopback_unless_told_otherwise) {
  for (const char* open : {"0.0.0.0:9464", "[::]:9464", "10.0.0.1:9464"}) {
    const Status status = check_metrics_address(open, false);
    EXPECT_EQ(status.code(), StatusCode::kUsage) << open;
    EXPECT_THAT(status.message(), HasSubstr("--insecure-tcp"));
    EXPECT_TRUE(check_metrics_address(open, true).ok()) << open;
  }
}

TEST(Metrics, are_served_nowhere_but_at_metrics) {
  std::atomic<int> collected{0};
  auto endpoint = start("127.0.0.1:0", [&] {
    ++collected;
    return counted();
  });
  ASSERT_TRUE(endpoint.ok()) << endpoint.status().to_string();
  const std::string url = (*endpoint)->url();
  EXPECT_THAT(url, ::testing::MatchesRegex("http://127.0.0.1:[1-9][0-9]*/metrics"));
  const std::string answer = http_get(url, "/metrics");
  EXPECT_THAT(answer, HasSubstr("200 OK"));
  EXPECT_THAT(answer,
              HasSubstr("airlock_transport_bytes_total{path=\"ring\",direction=\"sent\"} 3000\n"));
  EXPECT_THAT(answer, HasSubstr("device=\"a \\\"device\\\"\""));
  EXPECT_EQ(collected.load(), 1);
  for (const char* path : {"/", "/etc/passwd", "/other"})
    EXPECT_EQ(http_get(url, path).find("airlock_"), std::string::npos) << path;
}

TEST(Metrics, health_and_readiness_stand_beside_them) {
  auto endpoint = start("127.0.0.1:0", counted);
  ASSERT_TRUE(endpoint.ok());
  EXPECT_THAT(http_get((*endpoint)->url(), "/healthz"), HasSubstr("200 OK"));
  const std::string answer = http_get((*endpoint)->url(), "/readyz");
  EXPECT_THAT(answer, HasSubstr("503 Service Unavailable"));
  EXPECT_THAT(answer, HasSubstr("\r\n\r\nnot yet\n"));
}

TEST(Metrics, a_port_in_use_is_said) {
  auto first = start("127.0.0.1:0", counted);
  ASSERT_TRUE(first.ok());
  std::string address = (*first)->url().substr(7);
  address.resize(address.find('/'));
  const auto second = start(address, counted);
  EXPECT_EQ(second.status().code(), StatusCode::kInUse);
  EXPECT_THAT(second.status().message(), HasSubstr(address));
}

TEST(Metrics, histogram_counts_exactly_at_its_edges) {
  for (const auto& family : metric_families(counted())) {
    if (family.name != "airlock_op_service_seconds") continue;
    const auto& histogram = family.metric.at(2).histogram;
    EXPECT_EQ(histogram.sample_count, 4U);
    EXPECT_DOUBLE_EQ(histogram.sample_sum, 6.0);
    ASSERT_EQ(histogram.bucket.size(), 22U);
    EXPECT_DOUBLE_EQ(histogram.bucket.front().upper_bound, 8191e-9);
    EXPECT_EQ(histogram.bucket.at(0).cumulative_count, 2U);
    EXPECT_EQ(histogram.bucket.at(1).cumulative_count, 3U);
    EXPECT_EQ(histogram.bucket.back().cumulative_count, 3U);
    return;
  }
  FAIL() << "no histogram";
}

TEST(Metrics, op_time_is_split_into_parts) {
  for (const auto& family : metric_families(counted())) {
    if (family.name != "airlock_op_seconds_total") continue;
    ASSERT_EQ(family.metric.size(), 3 * kCountOf<Op>);
    EXPECT_DOUBLE_EQ(family.metric.at(6).counter.value, 2.0);  // queue
    EXPECT_DOUBLE_EQ(family.metric.at(7).counter.value, 3.0);  // compute
    EXPECT_DOUBLE_EQ(family.metric.at(8).counter.value, 1.0);  // wire
    return;
  }
  FAIL() << "no op times";
}

TEST(Metrics, time_on_the_device_is_split_into_parts) {
  for (const auto& family : metric_families(counted())) {
    if (family.name != "airlock_op_device_seconds_total") continue;
    ASSERT_EQ(family.metric.size(), 3 * kCountOf<Op>);
    constexpr std::array<std::pair<const char*, double>, 3> kParts = {
        {{"copy_in", 0.5}, {"compute", 2.0}, {"copy_out", 0.25}}};
    for (std::size_t i = 0; i < kParts.size(); ++i) {
      const auto& metric = family.metric.at(6 + i);
      EXPECT_EQ(metric.label.at(0).value, "batch_linear");
      EXPECT_EQ(metric.label.at(1).value, kParts.at(i).first);
      EXPECT_DOUBLE_EQ(metric.counter.value, kParts.at(i).second);
    }
    return;
  }
  FAIL() << "no device times";
}

}  // namespace
}  // namespace airlock::testing
