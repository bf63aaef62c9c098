#include "tee_runner/options.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "base/safe_text.h"
#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

Result<PrefillOptions> parse(const std::vector<const char*>& arguments) {
  std::vector<const char*> argv = {"tee_runner", "prefill"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  ASSIGN_OR_RETURN(const auto command, parse_options(static_cast<int>(argv.size()), argv.data()));
  return std::get<PrefillOptions>(command.value());
}

void expect_usage(std::initializer_list<const char*> arguments, const char* word) {
  const auto options = parse(arguments);
  ASSERT_FALSE(options.ok()) << word;
  EXPECT_EQ(options.status().code(), StatusCode::kUsage);
  EXPECT_NE(options.status().message().find(word), std::string::npos) << options.status().message();
}

TEST(Options, reads_the_whole_command_line) {
  const auto parsed = parse({"--model",
                             "m",
                             "--endpoint",
                             "ipc:///x",
                             "--tokens",
                             "1,2",
                             "--wire",
                             "bf16",
                             "--dtype",
                             "fp16",
                             "--attention",
                             "tee",
                             "--chunk",
                             "64",
                             "--tile",
                             "48",
                             "--threads",
                             "3",
                             "--repeat",
                             "5",
                             "--timeout-ms",
                             "70",
                             "--op-timeout-ms",
                             "80",
                             "--ring",
                             "on",
                             "--ring-slots",
                             "16",
                             "--ring-slot-bytes",
                             "65536",
                             "--logits-out",
                             "l.npy",
                             "--all-logits",
                             "--stats-json",
                             "s.json",
                             "--compare-local",
                             "-o",
                             "json"});
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  const PrefillOptions& options = *parsed;
  EXPECT_EQ(options.model, "m");
  EXPECT_EQ(options.endpoint, "ipc:///x");
  EXPECT_EQ(options.tokens, "1,2");
  EXPECT_EQ(options.wire, DType::kBF16);
  EXPECT_EQ(options.dtype, DType::kF16);
  EXPECT_EQ(options.attention, Attention::kTee);
  EXPECT_EQ(options.chunk, 64);
  EXPECT_EQ(options.tile, 48);
  EXPECT_EQ(options.threads, 3U);
  EXPECT_EQ(options.repeat, 5U);
  EXPECT_EQ(options.timeout.count(), 70);
  EXPECT_EQ(options.op_timeout.count(), 80);
  EXPECT_EQ(options.ring.choice, RingChoice::kOn);
  EXPECT_EQ(options.ring.slot_count, 16U);
  EXPECT_EQ(options.ring.slot_bytes, 65536U);
  EXPECT_EQ(options.logits_out, "l.npy");
  EXPECT_TRUE(options.all_logits);
  EXPECT_EQ(options.stats_json, "s.json");
  EXPECT_TRUE(options.compare_local);
  EXPECT_EQ(options.output, OutputForm::kJson);
}

TEST(Options, have_the_documented_defaults) {
  const auto parsed = parse({"--random-tokens", "8"});
  ASSERT_TRUE(parsed.ok());
  const PrefillOptions& options = *parsed;
  EXPECT_EQ(options.backend, BackendChoice::kRemote);
  EXPECT_FALSE(options.wire.has_value());
  EXPECT_FALSE(options.dtype.has_value());
  EXPECT_EQ(options.attention, Attention::kOffload);
  EXPECT_EQ(options.chunk, 0);
  EXPECT_EQ(options.tile, kAutoTile);
  EXPECT_EQ(options.timeout.count(), 5000);
  EXPECT_EQ(options.op_timeout.count(), 300000);
  EXPECT_EQ(options.ring.choice, RingChoice::kAuto);
  EXPECT_EQ(options.ring.slot_count, 0U);
  EXPECT_EQ(options.output, OutputForm::kMarkdown);
  EXPECT_GE(options.threads, 1U);
}

TEST(Options, refuses_what_cannot_be_parsed) {
  expect_usage({}, "--tokens");
  expect_usage({"--tokens", "1,x"}, "'x'");
  expect_usage({"--tokens", "1", "--wire", "uint8"}, "--wire");
  expect_usage({"--tokens", "1", "--threads", "0"}, "--threads");
  expect_usage({"--tokens", "1", "--threads", "many"}, "--threads");
  expect_usage({"--tokens", "1", "--repeat", "0"}, "--repeat");
  expect_usage({"--tokens", "1", "--chunk", "0"}, "--chunk");
  expect_usage({"--tokens", "1", "--chunk", "131073"}, "--chunk");
  expect_usage({"--tokens", "1", "--chunk", "all"}, "--chunk");
  for (const char* tile : {"0", "131073", "-1", "some", ""})
    expect_usage({"--tokens", "1", "--tile", tile}, "--tile");
  expect_usage({"--tokens", "1", "--attention", "nowhere"}, "--attention");
  expect_usage({"--tokens", "1", "--timeout-ms", "0"}, "--timeout-ms");
  expect_usage({"--tokens", "1", "--op-timeout-ms", "-5"}, "--op-timeout-ms");
  expect_usage({"--tokens", "1", "--ring-slots", "7"}, "--ring-slots");
  expect_usage({"--tokens", "1", "--ring-slot-bytes", "4097"}, "4097");
  expect_usage({"--tokens", "1", "--ring-slot-bytes", "abc"}, "abc");
  expect_usage({"--random-tokens", "0"}, "--random-tokens");
  expect_usage({"--random-tokens", "131073"}, "--random-tokens");
  expect_usage({"--tokens", "1", "--no-such-option"}, "--no-such-option");
  expect_usage({"--tokens", "1", "-o", "xml"}, "--output");
}

TEST(Options, int8_crosses_with_attention_in_the_tee_alone) {
  const auto plain = parse({"--tokens", "1", "--wire", "int8"});
  ASSERT_TRUE(plain.ok()) << plain.status().message();
  EXPECT_EQ(plain->wire, DType::kI8);
  EXPECT_EQ(plain->attention, Attention::kTee);
  EXPECT_TRUE(parse({"--tokens", "1", "--wire", "int8", "--attention", "tee"}).ok());
  expect_usage({"--tokens", "1", "--wire", "int8", "--attention", "offload"},
               "--wire int8 has it tee");
  expect_usage({"--tokens", "1", "--wire", "int8", "--privacy", "otp", "--model", "m"}, "--wire");
  expect_usage({"--tokens", "1", "--dtype", "int8"}, "--dtype");
}

TEST(Options, refuses_what_does_not_go_together) {
  expect_usage({"--tokens", "1", "--random-tokens", "2"}, "excludes");
  expect_usage({"--tokens", "1", "--tokens-file", "f"}, "excludes");
  expect_usage({"--tokens", "1", "--model", "m", "--synthetic", "s"}, "excludes");
  expect_usage({"--tokens", "1", "--backend", "local"}, "--model");
  expect_usage({"--tokens", "1", "--compare-local"}, "--model");
  expect_usage({"--tokens", "1", "--compare-local", "--backend", "local", "--model", "m"},
               "--backend remote");
  expect_usage({"--tokens", "1", "--seed", "3"}, "--random-tokens");
}

TEST(Options, needs_a_command_that_exists) {
  const char* unknown[] = {"tee_runner", "levitate"};
  EXPECT_EQ(parse_options(2, unknown).status().code(), StatusCode::kUsage);
  EXPECT_EQ(parse_options(1, unknown).status().code(), StatusCode::kUsage);
}

TEST(Tokens, are_separated_by_commas_or_white_space) {
  EXPECT_EQ(parse_tokens(" 1, 2\n3\t4,,5\r\n", "x").value(),
            (std::vector<std::int32_t>{1, 2, 3, 4, 5}));
  EXPECT_TRUE(parse_tokens("", "x").value().empty());
}

TEST(Tokens, tell_text_that_is_no_number_from_ids_of_no_vocabulary) {
  for (const char* text : {"1,a", "1.5", "0x3", "1;2", "--"}) {
    EXPECT_EQ(parse_tokens(text, "x").status().code(), StatusCode::kUsage) << text;
  }
  for (const char* text : {"-1", "2147483648", "99999999999999999999999"}) {
    const auto tokens = parse_tokens(text, "x");
    EXPECT_EQ(tokens.status().code(), StatusCode::kInvalidInput) << text;
    EXPECT_NE(tokens.status().message().find(text), std::string::npos);
  }
}

TEST(Tokens, of_a_file_are_quoted_in_words_that_can_be_printed) {
  for (const char* text : {"1 \x1b[2Jx",
                           "\xc2\x9b"
                           "2J",
                           "\xff"}) {
    const std::string message = parse_tokens(text, "x").status().message();
    EXPECT_FALSE(has_controls(message)) << message;
  }
}

TEST(Tokens, random_ones_depend_on_the_seed_and_stay_in_the_vocabulary) {
  const auto tokens = random_tokens(1000, 7, 50);
  EXPECT_EQ(tokens, random_tokens(1000, 7, 50));
  EXPECT_NE(tokens, random_tokens(1000, 8, 50));
  for (const std::int32_t token : tokens) EXPECT_TRUE(token >= 0 && token < 50);
}

Result<std::vector<std::int32_t>> read_prompt(const PrefillOptions& options, std::int64_t vocab) {
  ASSIGN_OR_RETURN(const PromptSource prompt, PromptSource::read(options));
  return prompt.tokens(vocab);
}

TEST(Prompt, comes_from_a_file_whose_faults_are_bad_input) {
  const std::string path = testing::TempDir() + "airlock-prompt.txt";
  PrefillOptions options;
  options.tokens_file = path;
  std::ofstream(path) << "4, 5\n6\n";
  EXPECT_EQ(read_prompt(options, 10).value(), (std::vector<std::int32_t>{4, 5, 6}));
  std::ofstream(path) << "4, five\n";
  EXPECT_EQ(read_prompt(options, 10).status().code(), StatusCode::kInvalidInput);
  for (const char* text : {"", " \n", "4,10"}) {
    std::ofstream(path) << text;
    EXPECT_EQ(read_prompt(options, 10).status().code(), StatusCode::kInvalidInput) << text;
  }
  std::remove(path.c_str());
  const auto missing = read_prompt(options, 10);
  EXPECT_EQ(missing.status().code(), StatusCode::kInvalidInput);
  EXPECT_NE(missing.status().message().find(path), std::string::npos);
}

TEST(Options, a_trace_over_another_of_the_runs_files_is_refused) {
  const TempDir dir;
  const std::string trace = dir.file("t.jsonl");
  const std::string same = dir.file("./t.jsonl");
  const auto expect_refused = [&](const char* option, const std::string& path, bool payload) {
    const bool prompt = std::string_view(option) == "--tokens-file";
    std::vector<const char*> arguments = {"--record", trace.c_str(), option, path.c_str()};
    if (!prompt) arguments.insert(arguments.end(), {"--tokens", "1"});
    if (payload) arguments.push_back("--record-payload");
    const auto options = parse(arguments);
    ASSERT_FALSE(options.ok()) << option << " " << path;
    EXPECT_EQ(options.status().code(), StatusCode::kUsage);
    EXPECT_NE(options.status().message().find(option), std::string::npos)
        << options.status().message();
  };
  const auto refuse_all = [&](const std::string& path) {
    for (const char* option : {"--stats-json", "--logits-out", "--tokens-file", "--synthetic"}) {
      expect_refused(option, path, false);
    }
  };
  refuse_all(trace);  // by name: nothing is there yet
  refuse_all(same);
  expect_refused("--logits-out", trace + ".safetensors", true);
  std::filesystem::create_directory(dir.file("far"));
  std::filesystem::create_symlink("far/t.jsonl", dir.file("to-far"));
  const std::string beside = dir.file("far/t.jsonl.safetensors");
  const auto over = parse({"--tokens", "1", "--record", dir.file("to-far").c_str(),
                           "--record-payload", "--logits-out", beside.c_str()});
  EXPECT_EQ(over.status().code(), StatusCode::kUsage);
  write_all(trace, "x");
  const std::string link = dir.file("link");
  ASSERT_EQ(::link(trace.c_str(), link.c_str()), 0);
  refuse_all(same);
  refuse_all(link);
  EXPECT_TRUE(
      parse({"--tokens", "1", "--record", trace.c_str(), "--stats-json", dir.file("other").c_str()})
          .ok());
  EXPECT_TRUE(parse({"--tokens", "1", "--record", "/dev/null", "--stats-json", "/dev/null"}).ok());
}

TEST(Options, of_tokenize_need_a_model_alone) {
  const auto parse_tokenize = [](std::vector<const char*> argv) -> Result<TokenizeOptions> {
    argv.insert(argv.begin(), {"tee_runner", "tokenize"});
    ASSIGN_OR_RETURN(const auto command, parse_options(static_cast<int>(argv.size()), argv.data()));
    return std::get<TokenizeOptions>(command.value());
  };
  const auto few = parse_tokenize({"--model", "m"});
  ASSERT_TRUE(few.ok());
  EXPECT_EQ(few->model, "m");
  EXPECT_FALSE(few->no_bos || few->no_special || few->decode || few->jsonl);
  const auto all =
      parse_tokenize({"--model", "m", "--no-bos", "--no-special", "--decode", "--jsonl"});
  ASSERT_TRUE(all.ok());
  EXPECT_TRUE(all->no_bos && all->no_special && all->decode && all->jsonl);
  EXPECT_EQ(parse_tokenize({}).status().code(), StatusCode::kUsage);
  EXPECT_EQ(parse_tokenize({"--model", "m", "text"}).status().code(), StatusCode::kUsage);
}

}  // namespace
}  // namespace airlock
