#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "tests/support/temp_dir.h"
#include "tests/tools/airlock_pool/snapshot_rig.h"
#include "tools/airlock_pool/check.h"

namespace airlock::pool_tool {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kPlenty = std::uint64_t{1} << 40;

const Finding* find(const Findings& findings, const std::string& what) {
  for (const Finding& found : findings) {
    if (found.what == what) return &found;
  }
  return nullptr;
}

/// The one problem of a server's file, which `what` names.
void expect_problem(const CountersSnapshot& snapshot, const std::string& what, StatusCode code,
                    const std::string& word) {
  const Findings findings = check_server(snapshot, {}, kPlenty);
  const Finding* const found = find(findings, what);
  ASSERT_NE(found, nullptr) << show_findings(findings, OutputForm::kMarkdown);
  EXPECT_EQ(found->level, Level::kProblem);
  EXPECT_THAT(found->text, HasSubstr(word));
  EXPECT_EQ(verdict(findings).code(), code);
}

TEST(PoolCheck, finds_nothing_wrong_with_a_server_that_serves) {
  const Findings findings = check_server(some_snapshot(), {}, kPlenty);
  EXPECT_TRUE(verdict(findings).ok()) << show_findings(findings, OutputForm::kMarkdown);
  EXPECT_EQ(find(findings, "room")->level, Level::kOk);
  EXPECT_EQ(find(findings, "device")->level, Level::kNote);
}

TEST(PoolCheck, finds_a_server_that_hangs_or_was_killed) {
  CountersSnapshot snapshot = some_snapshot();
  snapshot.heartbeat_age_ns = 5'000'000'000;
  expect_problem(snapshot, "server", StatusCode::kUnavailable, "hangs");
  snapshot.alive = false;
  expect_problem(snapshot, "server", StatusCode::kUnavailable, "killed");
}

TEST(PoolCheck, finds_that_there_is_no_pool) {
  CountersSnapshot snapshot = some_snapshot();
  snapshot.server.pool = {};
  expect_problem(snapshot, "pool", StatusCode::kInvalidInput, "--pool");
}

TEST(PoolCheck, finds_a_pool_of_another_size) {
  const auto code = [](const PoolShape& expected) {
    return verdict(check_server(some_snapshot(), expected, kPlenty)).code();
  };
  EXPECT_EQ(code(shape_of(PoolProfile::kLow)), StatusCode::kMismatch);
  EXPECT_EQ(code(shape_of_bytes(8 * kSlot).value()), StatusCode::kOk);  // in whatever slots
}

TEST(PoolCheck, gives_a_spare_slot_to_one_use_alone) {
  CountersSnapshot snapshot = some_snapshot();
  snapshot.pool.own = {};
  snapshot.pool.spare = {2, 2};
  Findings findings = check_server(snapshot, {}, kPlenty);
  EXPECT_TRUE(verdict(findings).ok());
  EXPECT_EQ(find(findings, "room")->level, Level::kNote);  // none is left for scratch
  EXPECT_THAT(find(findings, "room")->text, HasSubstr("(scratch)"));
  snapshot.pool.spare = {1, 1};
  findings = check_server(snapshot, {}, kPlenty);
  EXPECT_EQ(verdict(findings).code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(find(findings, "room")->text, HasSubstr("(out)"));
}

TEST(PoolCheck, finds_no_room_for_one_more) {
  CountersSnapshot snapshot = some_snapshot();
  snapshot.pool.own[PoolUse::kOutput] = {0, 0};
  EXPECT_TRUE(verdict(check_server(snapshot, {}, kPlenty)).ok());  // a spare one
  snapshot.pool.spare = {0, 0};
  const Finding* room = nullptr;
  const Findings findings = check_server(snapshot, {}, kPlenty);
  for (const Finding& found : findings) {
    if (found.level == Level::kProblem) room = &found;
  }
  ASSERT_NE(room, nullptr);
  EXPECT_THAT(room->text, HasSubstr("(out)"));
  EXPECT_EQ(room->code, StatusCode::kResourceExhausted);
}

TEST(PoolCheck, notes_room_for_less_than_a_quota) {
  CountersSnapshot snapshot = some_snapshot();
  snapshot.server.pool = {kSlot, {{8, 8, 0}}, 0};
  snapshot.pool.own = {{PoolFigures::Free{3, 1}, PoolFigures::Free{8, 8}, PoolFigures::Free{}}};
  snapshot.pool.spare = {};
  const Findings findings = check_server(snapshot, {}, kPlenty);
  EXPECT_TRUE(verdict(findings).ok());
  EXPECT_EQ(find(findings, "room")->level, Level::kNote);
}

TEST(PoolCheck, notes_a_server_that_may_be_full) {
  CountersSnapshot snapshot = some_snapshot();
  snapshot.sessions_active = 8;
  const Findings findings = check_server(snapshot, {}, kPlenty);
  EXPECT_TRUE(verdict(findings).ok());  // some of the eight may be ending
  EXPECT_EQ(find(findings, "sessions")->level, Level::kNote);
}

TEST(PoolCheck, finds_too_little_memory_to_touch_all_of_it) {
  CountersSnapshot snapshot = some_snapshot();
  const auto code = [&](std::optional<std::uint64_t> available) {
    return verdict(check_server(snapshot, {}, available)).code();
  };
  EXPECT_EQ(code(6 * kSlot - 4096), StatusCode::kOk);  // the rest is leased
  EXPECT_EQ(code(6 * kSlot - 4097), StatusCode::kResourceExhausted);
  EXPECT_EQ(code(std::nullopt), StatusCode::kOk);
  snapshot.server.pool_commit = PoolCommit::kAll;
  EXPECT_EQ(code(0), StatusCode::kOk);
}

TEST(PoolCheck, finds_what_is_wrong_with_the_folder_and_the_socket) {
  const TempDir directory;
  const std::string path = directory.file("ctl");
  const auto code = [](const std::string& endpoint) {
    return verdict(check_endpoint(parse_endpoint(endpoint).value())).code();
  };
  EXPECT_EQ(code("tcp://127.0.0.1:5"), StatusCode::kInvalidInput);
  EXPECT_EQ(code("ipc://" + directory.file("none/ctl")), StatusCode::kUnavailable);
  EXPECT_EQ(code("ipc://" + path), StatusCode::kUnavailable);
  write_all(path, "");
  EXPECT_EQ(code("ipc://" + path), StatusCode::kInvalidInput);
  std::filesystem::remove(path);
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = unix_address(path).value();
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  EXPECT_EQ(code("ipc://" + path), StatusCode::kOk);
  ASSERT_EQ(::chmod(path.c_str(), 0666), 0);
  EXPECT_EQ(code("ipc://" + path), StatusCode::kInvalidInput);
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  ASSERT_EQ(::chmod(directory.path().c_str(), 0755), 0);
  EXPECT_EQ(code("ipc://" + path), StatusCode::kInvalidInput);
}

TEST(PoolCheck, the_first_problem_decides) {
  const Findings findings = {{Level::kOk, "a", "fine"},
                             {Level::kProblem, "b", "bad\x1b[2J", StatusCode::kMismatch},
                             {Level::kProblem, "c", "worse", StatusCode::kUnavailable}};
  EXPECT_EQ(verdict(findings).code(), StatusCode::kMismatch);
  EXPECT_EQ(show_findings(findings, OutputForm::kMarkdown),
            "ok: a: fine\nproblem: b: bad?[2J\nproblem: c: worse\n");
  const auto json = nlohmann::json::parse(show_findings(findings, OutputForm::kJson));
  EXPECT_EQ(json["problems"], 2);
  EXPECT_EQ(json["findings"][0]["level"], "ok");
}

}  // namespace
}  // namespace airlock::pool_tool
