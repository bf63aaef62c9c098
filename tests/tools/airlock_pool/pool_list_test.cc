#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/temp_dir.h"
#include "tests/tools/airlock_pool/snapshot_rig.h"
#include "tools/airlock_pool/list.h"

namespace airlock::pool_tool {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(PoolList, shows_what_is_free_and_who_has_the_rest) {
  const std::string text = show_pool(some_snapshot(), OutputForm::kMarkdown);
  EXPECT_THAT(text, HasSubstr("a pool of 8.00 MiB in 8 slots of 1 MiB: 4 in, 2 out, 0 scratch, 2 "
                              "spare, committed as it is touched\n"));
  EXPECT_THAT(text, HasSubstr("2.00 MiB leased now, 4.00 MiB at most at one time; leases: 9 "
                              "granted, 3 of them cut short for want of room, 2 refused\n"));
  EXPECT_THAT(text,
              HasSubstr("| in      |     4 |             1 | 2.00 MiB |   4.00 MiB | 2.00 MiB "
                        "|         1.00 MiB |          0.50 |\n"));
  EXPECT_THAT(text, HasSubstr("| 0000000000000abc | python pid 5   | out     | 6.00 MiB | 4.00 KiB "
                              "| 4.00 KiB |     1.5 |\n"));
  EXPECT_THAT(text, HasSubstr("| 0000000000000def | evil?[2J pid 6 | scratch |        - |      0 B "
                              "| 4.00 KiB |     0.1 |\n"));
  EXPECT_THAT(text, HasSubstr("| scratch |     0 |             1 |"));  // a spare one
  CountersSnapshot without_spare = some_snapshot();
  without_spare.server.pool.spare_slots = 0;
  EXPECT_THAT(show_pool(without_spare, OutputForm::kMarkdown),
              HasSubstr("| scratch |     0 |             0 |"));
}

TEST(PoolList, json_has_the_same) {
  const auto json = nlohmann::json::parse(show_pool(some_snapshot(), OutputForm::kJson));
  EXPECT_EQ(json["state"], "serving");
  const auto& pool = json["pool"];
  EXPECT_EQ(pool["bytes"], 8 * kSlot);
  EXPECT_EQ(pool["leased_bytes"], 2 * kSlot + 4096);
  EXPECT_EQ(pool["refused"], 2);
  EXPECT_EQ(pool["uses"][0]["free_bytes"], 2 * kSlot);
  EXPECT_EQ(pool["uses"][0]["longest_free_bytes"], kSlot);
  EXPECT_EQ(pool["uses"][0]["fragmentation"], 0.5);
  EXPECT_EQ(pool["uses"][2]["fragmentation"], nullptr);
  ASSERT_EQ(pool["holders"].size(), 3U);
  EXPECT_EQ(pool["holders"][0]["offset"], kSlot);
  EXPECT_EQ(pool["holders"][0]["client"], "python pid 5");
  EXPECT_EQ(pool["holders"][2]["offset"], nullptr);
}

TEST(PoolList, says_that_there_is_no_pool_and_why) {
  CountersSnapshot snapshot = some_snapshot();
  snapshot.server.pool = {};
  EXPECT_THAT(show_pool(snapshot, OutputForm::kMarkdown), HasSubstr("\nno pool: the server was"));
  snapshot.server.ring_on = false;
  EXPECT_THAT(show_pool(snapshot, OutputForm::kMarkdown), HasSubstr("--ring off"));
  snapshot.server.endpoint = "tcp://127.0.0.1:5";
  EXPECT_THAT(show_pool(snapshot, OutputForm::kMarkdown), HasSubstr("over tcp"));
  const auto json = nlohmann::json::parse(show_pool(snapshot, OutputForm::kJson));
  EXPECT_EQ(json["pool"], nullptr);
  EXPECT_THAT(json["why"], HasSubstr("over tcp"));
}

TEST(PoolList, says_that_nobody_has_any) {
  CountersSnapshot snapshot = some_snapshot();
  snapshot.holders.clear();
  EXPECT_THAT(show_pool(snapshot, OutputForm::kMarkdown), HasSubstr("nobody has any of it\n"));
}

TEST(PoolList, warns_of_figures_of_two_moments) {
  CountersSnapshot snapshot = some_snapshot();
  EXPECT_THAT(show_pool(snapshot, OutputForm::kMarkdown), Not(HasSubstr("two moments")));
  snapshot.settled = false;
  EXPECT_THAT(show_pool(snapshot, OutputForm::kMarkdown), HasSubstr("two moments"));
}

TEST(PoolList, looks_at_the_file_beside_the_socket) {
  const TempDir directory;
  const Endpoint endpoint = parse_endpoint("ipc://" + directory.file("ctl")).value();
  const Status none = look(endpoint).status();
  EXPECT_EQ(none.code(), StatusCode::kUnavailable);
  EXPECT_THAT(none.message(), HasSubstr("Start gpu_server"));
  write_all(directory.file("ctl.lock"), "");
  EXPECT_THAT(look(endpoint).status().message(), HasSubstr("loading"));
  ServerInfo info = some_snapshot().server;
  const auto file = CountersFile::create(counters_path(endpoint), info, 2);
  ASSERT_TRUE(file.ok());
  const auto seen = look(endpoint);
  ASSERT_TRUE(seen.ok()) << seen.status().to_string();
  EXPECT_EQ(seen->server.pool, info.pool);
}

}  // namespace
}  // namespace airlock::pool_tool
