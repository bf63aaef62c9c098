#include "runtime/program/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <initializer_list>

#include "base/dtype.h"
#include "base/safe_text.h"
#include "runtime/program/connection_options.h"

namespace airlock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Result<bool> parse(const CommandLine& line, std::initializer_list<const char*> arguments) {
  std::vector<const char*> argv = {"program"};
  argv.insert(argv.end(), arguments);
  return line.parse(static_cast<int>(argv.size()), argv.data());
}

void expect_refused(const CommandLine& line, std::initializer_list<const char*> arguments,
                    const char* text) {
  const auto parsed = parse(line, arguments);
  ASSERT_FALSE(parsed.ok()) << text;
  EXPECT_EQ(parsed.status().code(), StatusCode::kUsage);
  EXPECT_EQ(parsed.status().message(), text);
}

TEST(CommandLine, fills_in_each_kind_of_value) {
  const CommandLine line("program", "A program.");
  const CommandOptions options = line.options();
  std::string text;
  std::vector<std::string> files;
  bool flag = false;
  std::uint32_t number = 0;
  double real = 0;
  RingChoice ring = RingChoice::kAuto;
  std::optional<DType> dtype;
  options.text("--text", text, "a text");
  options.texts("files", files, "files");
  options.flag("--flag", flag, "a flag");
  options.number("--number", number, 1U, 9U, "a number");
  options.real("--real", real, 0.5, 2, "a real number");
  options.choice("--ring", ring, "a choice");
  options.choice("--dtype", dtype, "a choice, or auto");
  const auto parsed = parse(line, {"a", "--text", "t", "b", "--flag", "--number", "9", "--real",
                                   "0.5", "--ring", "off", "--dtype", "bf16"});
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  EXPECT_TRUE(*parsed);
  EXPECT_EQ(text, "t");
  EXPECT_THAT(files, ElementsAre("a", "b"));
  EXPECT_TRUE(flag);
  EXPECT_EQ(number, 9U);
  EXPECT_EQ(real, 0.5);
  EXPECT_EQ(ring, RingChoice::kOff);
  EXPECT_EQ(dtype, DType::kBF16);
  ASSERT_TRUE(parse(line, {"--dtype", "auto"}).ok());
  EXPECT_EQ(dtype, std::nullopt);
}

TEST(CommandLine, names_the_option_the_value_and_what_is_allowed) {
  const CommandLine line("program", "A program.");
  const CommandOptions options = line.options();
  std::uint8_t number = 0;
  double real = 0;
  RingChoice ring = RingChoice::kAuto;
  options.number("--number", number, 1, 9, "a number");
  options.real("--real", real, 0.5, 2, "a real number");
  options.choice("--ring", ring, "a choice");
  for (const char* value : {"0", "10", "-1", "1x", "", "99999999999999999999"}) {
    const std::string expected =
        "--number: '" + std::string(value) + "' is not a number from 1 to 9 (see program --help)";
    expect_refused(line, {"--number", value}, expected.c_str());
  }
  expect_refused(line, {"--real", "nan"},
                 "--real: 'nan' is not a number from 0.5 to 2 (see program --help)");
  expect_refused(line, {"--ring", "ON"},
                 "--ring: 'ON' is not one of: off, on, auto (see program --help)");
  EXPECT_EQ(number, 0);
  EXPECT_EQ(ring, RingChoice::kAuto);
}

TEST(CommandLine, quotes_what_was_given_in_words_that_can_be_printed) {
  const CommandLine line("program", "A program.");
  std::uint8_t number = 0;
  line.options().number("--number", number, 1, 9, "a number");
  for (const char* word : {"--number=\x1b[2J",
                           "--\xc2\x9b"
                           "2J",
                           "one\ntwo"}) {
    const std::string message = parse(line, {word}).status().message();
    EXPECT_FALSE(message.empty());
    EXPECT_FALSE(has_controls(message)) << message;
  }
}

TEST(CommandLine, knows_which_subcommand_was_asked_for) {
  CommandLine line("program", "A program.");
  line.require_subcommand();
  const CommandOptions one = line.options().subcommand("one", "the first");
  const CommandOptions two = line.options().subcommand("two", "the second");
  bool flag = false;
  one.flag("--flag", flag, "a flag");
  ASSERT_TRUE(parse(line, {"two"}).ok());
  EXPECT_FALSE(one.chosen());
  EXPECT_TRUE(two.chosen());
  const auto refused = parse(line, {"one", "--other"});
  EXPECT_THAT(refused.status().message(), HasSubstr("(see program one --help)"));
}

TEST(CommandLine, holds_options_to_each_other) {
  const CommandLine line("program", "A program.");
  std::string a;
  std::string b;
  const CommandOption first = line.options().text("--a", a, "one");
  (void)line.options().text("--b", b, "the other").excludes(first);
  EXPECT_FALSE(parse(line, {"--a", "x", "--b", "y"}).ok());
  ASSERT_TRUE(parse(line, {"--a", "x"}).ok());
  EXPECT_TRUE(first.given());
}

TEST(ConnectionOptions, take_a_ring_within_its_limits) {
  const CommandLine line("program", "A program.");
  RingWish ring;
  declare_ring(line.options(), ring, RingSide::kRunner);
  ASSERT_TRUE(parse(line, {"--ring-slots", "16", "--ring-slot-bytes", "64K"}).ok());
  EXPECT_EQ(ring.slot_count, 16U);
  EXPECT_EQ(ring.slot_bytes, 65536U);
  for (const char* bytes : {"4095", "4097", "65M", "0", "x", ""}) {
    EXPECT_FALSE(parse(line, {"--ring-slot-bytes", bytes}).ok()) << bytes;
  }
  for (const char* slots : {"7", "1025"}) {
    EXPECT_FALSE(parse(line, {"--ring-slots", slots}).ok()) << slots;
  }
}

}  // namespace
}  // namespace airlock
