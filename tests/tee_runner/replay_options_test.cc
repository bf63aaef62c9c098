#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tee_runner/options.h"
#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

Result<ReplayOptions> parse(std::vector<const char*> args) {
  args.insert(args.begin(), {"tee_runner", "replay"});
  ASSIGN_OR_RETURN(const auto command, parse_options(static_cast<int>(args.size()), args.data()));
  return std::get<ReplayOptions>(command.value());
}

TEST(ReplayOptions, have_defaults) {
  const auto options = parse({"t.jsonl"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->file, "t.jsonl");
  EXPECT_EQ(options->speed, ReplaySpeed::kMax);
  EXPECT_EQ(options->verify, ReplayVerify::kNone);
  EXPECT_EQ(options->repeat, 1U);
  EXPECT_EQ(options->clients, 1U);
  EXPECT_EQ(options->inflight, 1U);
  EXPECT_EQ(options->timeout, std::chrono::milliseconds(5000));
  EXPECT_EQ(options->op_timeout, std::chrono::milliseconds(300000));
}

TEST(ReplayOptions, are_taken_as_given) {
  const auto options = parse({"t.jsonl",
                              "--endpoint",
                              "tcp://127.0.0.1:1",
                              "--speed",
                              "recorded",
                              "--repeat",
                              "3",
                              "--clients",
                              "4",
                              "--inflight",
                              "5",
                              "--verify",
                              "tolerance",
                              "--timeout-ms",
                              "700",
                              "--op-timeout-ms",
                              "900",
                              "--ring",
                              "off",
                              "--stats-json",
                              "s.json",
                              "-o",
                              "csv"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->endpoint, "tcp://127.0.0.1:1");
  EXPECT_EQ(options->speed, ReplaySpeed::kRecorded);
  EXPECT_EQ(options->repeat, 3U);
  EXPECT_EQ(options->clients, 4U);
  EXPECT_EQ(options->inflight, 5U);
  EXPECT_EQ(options->verify, ReplayVerify::kTolerance);
  EXPECT_EQ(options->timeout, std::chrono::milliseconds(700));
  EXPECT_EQ(options->op_timeout, std::chrono::milliseconds(900));
  EXPECT_EQ(options->ring.choice, RingChoice::kOff);
  EXPECT_EQ(options->stats_json, "s.json");
  EXPECT_EQ(options->output, OutputForm::kCsv);
}

TEST(ReplayOptions, that_make_no_sense_are_refused) {
  for (const std::vector<const char*>& args :
       std::vector<std::vector<const char*>>{{},
                                             {"t", "--speed", "slow"},
                                             {"t", "--verify", "yes"},
                                             {"t", "--clients", "0"},
                                             {"t", "--clients", "65"},
                                             {"t", "--inflight", "0"},
                                             {"t", "--inflight", "65"},
                                             {"t", "--repeat", "0"},
                                             {"t", "--repeat", "many"},
                                             {"t", "--timeout-ms", "0"},
                                             {"t", "-o", "xml"},
                                             {"t", "--model", "m"},
                                             {"t", "u"}}) {
    EXPECT_EQ(parse(args).status().code(), StatusCode::kUsage);
  }
}

TEST(ReplayOptions, do_not_let_the_statistics_replace_the_trace) {
  TempDir dir;
  const std::string trace = dir.file("t.jsonl");
  const std::string link = dir.file("link");
  std::ofstream(trace) << "x";
  std::filesystem::create_symlink(trace, link);
  for (const std::string& stats : {trace, link, dir.file("./t.jsonl")}) {
    EXPECT_EQ(parse({trace.c_str(), "--stats-json", stats.c_str()}).status().code(),
              StatusCode::kUsage)
        << stats;
  }
  EXPECT_EQ(parse({"no.jsonl", "--stats-json", "no.jsonl"}).status().code(), StatusCode::kUsage);
  const std::string other = dir.file("s.json");
  EXPECT_TRUE(parse({trace.c_str(), "--stats-json", other.c_str()}).ok());
}

}  // namespace
}  // namespace airlock
