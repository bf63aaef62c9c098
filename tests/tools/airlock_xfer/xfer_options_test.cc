#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/airlock_xfer/options.h"

namespace airlock::xfer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Result<std::optional<Options>> parse(std::vector<const char*> words) {
  words.insert(words.begin(), "airlock_xfer");
  return parse_options(static_cast<int>(words.size()), words.data());
}

Options parsed(std::vector<const char*> words) { return parse(std::move(words)).value().value(); }

std::string refusal(std::vector<const char*> words) {
  const auto options = parse(std::move(words));
  EXPECT_EQ(options.status().code(), StatusCode::kUsage);
  return options.status().message();
}

TEST(Options, default_to_the_command_of_the_document) {
  const Options plain = parsed({});
  const Options given = parsed({"--path", "ring,pool,zmq,auto", "-b", "64", "-e", "128M", "-f", "2",
                                "-n", "100", "-w", "10", "-c", "1"});
  EXPECT_EQ(plain.paths, given.paths);
  EXPECT_EQ(plain.sizes, given.sizes);
  EXPECT_EQ(plain.iterations, given.iterations);
  EXPECT_EQ(plain.warmup, given.warmup);
  EXPECT_EQ(plain.check, given.check);
  EXPECT_EQ(given.sizes.front(), 64U);
  EXPECT_EQ(given.sizes.back(), 134217728U);
  EXPECT_EQ(given.sizes.size(), 25U);  // 22 powers of two, and three at the limit
}

TEST(Options, keep_the_order_of_the_paths) {
  EXPECT_THAT(parsed({"--path", "auto,ring"}).paths, ElementsAre(std::nullopt, Path::kRing));
}

TEST(Options, place_the_neighbours_at_the_slots_size) {
  EXPECT_THAT(parsed({"-b", "60K", "-e", "70K", "-f", "9", "--ring-slot-bytes", "64K"}).sizes,
              ElementsAre(61440, 65536, 69632));
}

TEST(Options, take_modes_and_formats) {
  const Options options = parsed({"--mode", "stream", "--inflight", "8", "--zmq", "tcp", "--json",
                                  "-c", "0", "--timeout-ms", "500", "--max-seconds", "0.5"});
  EXPECT_EQ(options.mode, Mode::kStream);
  EXPECT_EQ(options.inflight, 8U);
  EXPECT_EQ(options.zmq, ZmqTransport::kTcp);
  EXPECT_EQ(options.form, OutputForm::kJson);
  EXPECT_FALSE(options.check);
  EXPECT_EQ(options.timeout, std::chrono::milliseconds(500));
  EXPECT_EQ(options.max_seconds, 0.5);
  EXPECT_EQ(parsed({"-o", "csv"}).form, OutputForm::kCsv);
}

TEST(Options, are_refused_with_the_value_named) {
  EXPECT_THAT(refusal({"--path", "ring,fax"}), HasSubstr("'fax'"));
  EXPECT_THAT(refusal({"--path", ""}), HasSubstr("''"));
  EXPECT_THAT(refusal({"--path", "ring,ring"}), HasSubstr("twice"));
  EXPECT_THAT(refusal({"-b", "1M", "-e", "64"}), HasSubstr("-b 1048576"));
  EXPECT_THAT(refusal({"-f", "1"}), HasSubstr("-f 1"));
  EXPECT_THAT(refusal({"-e", "5G"}), HasSubstr("4 GiB"));
  EXPECT_THAT(refusal({"-e", "many"}), HasSubstr("'many'"));
  EXPECT_THAT(refusal({"-i", "0"}), HasSubstr("-i 0"));
  EXPECT_THAT(refusal({"-i", "4K", "-f", "2"}), HasSubstr("excludes"));
  EXPECT_THAT(refusal({"-n", "0"}), HasSubstr("--iterations"));
  EXPECT_THAT(refusal({"-n", "99999999999"}), HasSubstr("--iterations"));
  EXPECT_THAT(refusal({"-n", "-5"}), HasSubstr("--iterations"));
  EXPECT_THAT(refusal({"-c", "2"}), HasSubstr("--check"));
  EXPECT_THAT(refusal({"--inflight", "65"}), HasSubstr("--inflight"));
  EXPECT_THAT(refusal({"--ring-slots", "4"}), HasSubstr("--ring-slots"));
  EXPECT_THAT(refusal({"--ring-slot-bytes", "5000"}), HasSubstr("multiple of 4096"));
  EXPECT_THAT(refusal({"--max-seconds", "nan"}), HasSubstr("--max-seconds"));
  EXPECT_THAT(refusal({"--timeout-ms", "0"}), HasSubstr("--timeout-ms"));
  EXPECT_THAT(refusal({"--mode", "fast"}), HasSubstr("--mode"));
  EXPECT_THAT(refusal({"-o", "xml"}), HasSubstr("--output"));
  EXPECT_THAT(refusal({"--cpus", "0"}), HasSubstr("two CPU numbers"));
  EXPECT_THAT(refusal({"--cpus", "0,0,0"}), HasSubstr("two CPU numbers"));
  EXPECT_THAT(refusal({"--cpus", "a,b"}), HasSubstr("two CPU numbers"));
  EXPECT_THAT(refusal({"--cpus", "-1,-1"}), HasSubstr("CPU -1"));
  EXPECT_THAT(refusal({"--cpus", "100000,0"}), HasSubstr("CPU 100000"));
  EXPECT_THAT(refusal({"more"}), HasSubstr("more"));
}

}  // namespace
}  // namespace airlock::xfer
