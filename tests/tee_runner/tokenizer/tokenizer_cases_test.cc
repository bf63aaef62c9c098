// Cases that Hugging Face's library made, with the vocabularies of LLaMA 2, LLaMA 3 and the golden
// text model.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tee_runner/tokenizer/tokenizer.h"
#include "tests/support/shared_data.h"
#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

struct Cases {
  const char* folder;
  const char* file;
  const char* list;      // "": the file is the list
  const char* with_bos;  // the key of the ids with the begin token
};

void PrintTo(const Cases& cases, std::ostream* out) { *out << cases.folder; }

class TokenizerCases : public ::testing::TestWithParam<Cases> {};

TEST_P(TokenizerCases, come_out_the_same) {
  const fs::path folder = shared_data() / GetParam().folder;
  if (!fs::exists(folder / GetParam().file)) {
    GTEST_SKIP() << "SKIPPED: no " << folder / GetParam().file
                 << "; set AIRLOCK_SHARED to the folder that holds tokenizers/ and golden/";
  }
  const auto tokenizer = Tokenizer::open(folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  auto cases = nlohmann::json::parse(read_all(folder / GetParam().file));
  if (*GetParam().list != '\0') cases = cases[GetParam().list];
  ASSERT_GT(cases.size(), 30U);
  for (const auto& one : cases) {
    const std::string text = one["text"];
    const Ids ids = one["ids"];
    EXPECT_EQ((*tokenizer)->encode(text, Specials::kParse, Around::kNothing).value(), ids) << text;
    EXPECT_EQ((*tokenizer)->encode(text).value(), one[GetParam().with_bos].get<Ids>()) << text;
    EXPECT_EQ((*tokenizer)->decode(ids).value(), one["decoded"].get<std::string>());
    StreamDecoder stream(*tokenizer);
    std::string streamed;
    for (const std::int32_t id : ids) streamed += stream.push(id).value();
    EXPECT_EQ(streamed + stream.flush(), one["decoded"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(
    Published, TokenizerCases,
    ::testing::Values(Cases{"tokenizers/llama2", "encode_cases.json", "", "with_bos"},
                      Cases{"tokenizers/llama3", "encode_cases.json", "", "with_bos"},
                      Cases{"golden/text-kjv", "text_cases.json", "encode", "ids_bos"}));

}  // namespace
}  // namespace airlock
