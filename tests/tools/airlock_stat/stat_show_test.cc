#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tools/airlock_stat/options.h"
#include "tools/airlock_stat/show.h"

namespace airlock {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

CountersSnapshot serving() {
  CountersSnapshot snapshot;
  snapshot.report.side = "gpu_server";
  snapshot.report.wall_ns = 1'500'000'000;
  snapshot.server.endpoint = "ipc:///x/ctl";
  snapshot.pid = 42;
  snapshot.alive = true;
  snapshot.heartbeat_age_ns = 100'000'000;
  snapshot.server.max_clients = 8;
  return snapshot;
}

Result<std::optional<StatOptions>> parse(std::vector<const char*> words) {
  words.insert(words.begin(), "airlock_stat");
  return parse_stat_options(static_cast<int>(words.size()), words.data());
}

TEST(StatShow, names_process_time_sessions_and_last_sign) {
  EXPECT_EQ(describe_state(serving()),
            "gpu_server pid 42 at ipc:///x/ctl, up 1.5 s; 0 of 8 sessions under way, 0 begun, "
            "0 refused; last sign 0.1 s ago");
}

TEST(StatShow, tells_a_server_that_hangs_from_one_that_was_killed) {
  CountersSnapshot snapshot = serving();
  snapshot.heartbeat_age_ns = 5'200'000'000;
  EXPECT_EQ(state_of(snapshot), ServerState::kSilent);
  EXPECT_THAT(describe_state(snapshot), HasSubstr("hangs or was stopped: last sign 5.2 s ago"));
  snapshot.alive = false;
  EXPECT_EQ(state_of(snapshot), ServerState::kEnded);
  EXPECT_THAT(describe_state(snapshot), HasSubstr("ended without cleaning up"));
}

TEST(StatShow, json_is_the_report_with_the_live_part) {
  const CountersSnapshot snapshot = serving();
  auto json =
      nlohmann::json::parse(show(snapshot, StatSource::Scope::kWholeServer, OutputForm::kJson));
  EXPECT_EQ(json["live"]["state"], "serving");
  EXPECT_EQ(json["live"]["pid"], 42);
  json.erase("live");
  EXPECT_EQ(json, nlohmann::json::parse(report_json(snapshot.report)));
}

TEST(StatShow, says_that_figures_are_of_one_session_only) {
  const CountersSnapshot snapshot = serving();
  EXPECT_THAT(show(snapshot, StatSource::Scope::kOwnSession, OutputForm::kMarkdown),
              HasSubstr("that session's figures only"));
  const auto json =
      nlohmann::json::parse(show(snapshot, StatSource::Scope::kOwnSession, OutputForm::kJson));
  EXPECT_EQ(json["live"]["scope"], "own session");
}

TEST(StatShow, warns_of_sums_that_are_not_settled) {
  CountersSnapshot snapshot = serving();
  const auto table = [&] {
    return show(snapshot, StatSource::Scope::kWholeServer, OutputForm::kMarkdown);
  };
  EXPECT_THAT(table(), Not(HasSubstr("twice")));
  snapshot.settled = false;
  EXPECT_THAT(table(), HasSubstr("twice or not at all"));
}

TEST(StatOptions, watch_takes_seconds_or_one) {
  EXPECT_FALSE((*parse({}))->watch.has_value());
  EXPECT_EQ((*parse({"--watch"}))->watch, std::chrono::seconds(1));
  EXPECT_EQ((*parse({"--watch", "0.5", "-o", "json"}))->watch, std::chrono::milliseconds(500));
  EXPECT_EQ((*parse({"--watch", "-o", "json"}))->form, OutputForm::kJson);
}

TEST(StatOptions, refuses_what_it_cannot_parse) {
  for (const std::vector<const char*>& words : {std::vector<const char*>{"--watch", "0"},
                                                {"--watch", "nan"},
                                                {"--watch", "1s"},
                                                {"-o", "csv"},
                                                {"--endpoint", "here"},
                                                {"--timeout-ms", "0"},
                                                {"--nonsense"}}) {
    EXPECT_EQ(parse(words).status().code(), StatusCode::kUsage) << words.front();
  }
}

}  // namespace
}  // namespace airlock
