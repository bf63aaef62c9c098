#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/airlock_pool/options.h"

namespace airlock::pool_tool {
namespace {

using ::testing::HasSubstr;

Result<std::optional<Options>> parse(std::vector<const char*> words) {
  words.insert(words.begin(), "airlock_pool");
  return parse_options(static_cast<int>(words.size()), words.data());
}

Options parsed(std::vector<const char*> words) { return parse(std::move(words)).value().value(); }

std::string refusal(std::vector<const char*> words) {
  const auto options = parse(std::move(words));
  EXPECT_EQ(options.status().code(), StatusCode::kUsage);
  return options.status().message();
}

TEST(Options, tell_the_commands_apart) {
  EXPECT_EQ(parsed({"list"}).command, Command::kList);
  EXPECT_EQ(parsed({"watch"}).command, Command::kWatch);
  EXPECT_EQ(parsed({"check"}).command, Command::kCheck);
  EXPECT_EQ(parsed({"bench"}).command, Command::kBench);
  EXPECT_EQ(parse({}).status().code(), StatusCode::kUsage);
  EXPECT_EQ(parse({"list", "check"}).status().code(), StatusCode::kUsage);
}

TEST(Options, default_to_those_of_the_document) {
  const Options watch = parsed({"watch"});
  EXPECT_EQ(watch.interval, std::chrono::seconds(2));
  EXPECT_FALSE(watch.endpoint.empty());
  const Options bench = parsed({"bench"});
  EXPECT_EQ(bench.begin_bytes, 1024U);
  EXPECT_EQ(bench.end_bytes, std::uint64_t{1} << 30);
  EXPECT_EQ(bench.rounds, 20U);
  EXPECT_EQ(bench.max_time, std::chrono::seconds(2));
  EXPECT_EQ(bench.form, OutputForm::kMarkdown);
}

TEST(Options, take_a_profile_or_a_size_for_the_pool) {
  EXPECT_FALSE(parsed({"check"}).expected);
  EXPECT_EQ(parsed({"check", "--pool", "standard"}).expected, shape_of(PoolProfile::kStandard));
  EXPECT_EQ(parsed({"check", "--pool", "64M"}).expected->bytes(), 64U << 20);
  EXPECT_THAT(refusal({"check", "--pool", "middling"}), HasSubstr("'middling'"));
  EXPECT_THAT(refusal({"check", "--pool", "1"}), HasSubstr("slots have"));
}

TEST(Options, refuse_what_is_no_size_of_a_bench) {
  EXPECT_EQ(parsed({"bench", "--begin", "64", "--end", "4G"}).end_bytes, std::uint64_t{4} << 30);
  for (const char* const size : {"0", "3K", "32", "8G", "x", "-1"})
    EXPECT_THAT(refusal({"bench", "--begin", size}), HasSubstr("power of two")) << size;
  EXPECT_THAT(refusal({"bench", "--begin", "2M", "--end", "1M"}), HasSubstr("--begin"));
  EXPECT_EQ(parse({"bench", "--rounds", "0"}).status().code(), StatusCode::kUsage);
}

TEST(Options, refuse_what_is_no_endpoint_time_or_form) {
  EXPECT_EQ(parse({"list", "--endpoint", "ctl"}).status().code(), StatusCode::kUsage);
  EXPECT_EQ(parse({"watch", "--interval", "0"}).status().code(), StatusCode::kUsage);
  EXPECT_EQ(parse({"list", "-o", "csv"}).status().code(), StatusCode::kUsage);
  EXPECT_THAT(refusal({"check", "--timeout-ms", "0"}), HasSubstr("--timeout-ms"));
}

}  // namespace
}  // namespace airlock::pool_tool
