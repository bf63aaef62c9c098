// What a tokenizer.json may hold and what is refused, and the files beside it.

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "base/safe_text.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_tokenizer.h"

namespace airlock {
namespace {

struct Refusal {
  const char* place;  // what the message has to name
  std::function<void(TokenizerFile&)> change;
};

void expect_refused(const std::string& text, std::string_view place) {
  const auto made = Tokenizer::parse(text, "tokenizer.json");
  ASSERT_FALSE(made.ok()) << place;
  EXPECT_EQ(made.status().code(), StatusCode::kInvalidInput);
  const std::string& message = made.status().message();
  EXPECT_TRUE(message.starts_with("tokenizer.json: ")) << message;
  EXPECT_NE(message.find(place), std::string::npos) << message << " lacks " << place;
  EXPECT_FALSE(has_controls(message)) << message;
}

TokenizerFile part(const char* type) { return {{"type", type}}; }

const std::vector<Refusal>& refusals() {
  using F = TokenizerFile;
  static const std::vector<Refusal> kAll = {
      {"'model' is missing", [](F& f) { f.erase("model"); }},
      {"'model.type' is \"Unigram\"", [](F& f) { f["model"]["type"] = "Unigram"; }},
      {"'model.dropout' is 0.1", [](F& f) { f["model"]["dropout"] = 0.1; }},
      {"'model.continuing_subword_prefix' is \"##\"",
       [](F& f) { f["model"]["continuing_subword_prefix"] = "##"; }},
      {"'model.end_of_word_suffix'", [](F& f) { f["model"]["end_of_word_suffix"] = "</w>"; }},
      {"'model.unk_token' is \"nobody\"", [](F& f) { f["model"]["unk_token"] = "nobody"; }},
      {"'model.novelty' is not supported", [](F& f) { f["model"]["novelty"] = 1; }},
      {"'model.vocab' is missing", [](F& f) { f["model"].erase("vocab"); }},
      {"'model.vocab.a' is -1", [](F& f) { f["model"]["vocab"]["a"] = -1; }},
      {"'model.vocab.a' is 4194304", [](F& f) { f["model"]["vocab"]["a"] = 4194304; }},
      {"'model.vocab.b' is 97, which is another token's id",
       [](F& f) {
         f["model"]["vocab"]["a"] = 97;
         f["model"]["vocab"]["b"] = 97;
       }},
      {"is a token of over 4096 bytes",
       [](F& f) { f["model"]["vocab"][std::string(4097, 'a')] = 999; }},
      {"'model.merges.0' merges 't' and 'q'", [](F& f) { f["model"]["merges"][0] = "t q"; }},
      {"'model.merges.0' is \"th\"", [](F& f) { f["model"]["merges"][0] = "th"; }},
      {"'model.merges.0'", [](F& f) { f["model"]["merges"][0] = "t h e"; }},
      {"'model.merges.0'",
       [](F& f) {
         f["model"]["merges"][0] = {"t", "h", "e"};
       }},
      {"'model.merges.0'", [](F& f) { f["model"]["merges"][0] = " t"; }},
      {"'added_tokens.1.id' is 99", [](F& f) { f["added_tokens"][1]["id"] = 99; }},
      {"'added_tokens.1.id'",
       [](F& f) { f["added_tokens"][1]["id"] = f["added_tokens"][0]["id"]; }},
      {"'added_tokens.1.id'",
       [](F& f) { f["added_tokens"][1]["content"] = f["added_tokens"][0]["content"]; }},
      {"'added_tokens.0.content' is empty", [](F& f) { f["added_tokens"][0]["content"] = ""; }},
      {"'added_tokens.0.colour'", [](F& f) { f["added_tokens"][0]["colour"] = true; }},
      {"'normalizer.type' is \"NFC\"", [](F& f) { f["normalizer"] = part("NFC"); }},
      {"'normalizer.normalizers.0.type' is \"Lowercase\"",
       [](F& f) {
         f["normalizer"] = {{"type", "Sequence"}, {"normalizers", F::array({part("Lowercase")})}};
       }},
      {"'normalizer.pattern' is {...}, expected a String",
       [](F& f) {
         f["normalizer"] = {{"type", "Replace"}, {"pattern", {{"Regex", "a"}}}, {"content", "b"}};
       }},
      {"'normalizer.pattern.String'",
       [](F& f) {
         f["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", 3}}}, {"content", "b"}};
       }},
      {"'normalizer.pattern' is empty",
       [](F& f) {
         f["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", "b"}};
       }},
      {"'pre_tokenizer.type' is \"Whitespace\"",
       [](F& f) { f["pre_tokenizer"] = part("Whitespace"); }},
      {"'pre_tokenizer.pretokenizers.0.behavior' is \"MergedWithNext\"",
       [](F& f) { f["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "MergedWithNext"; }},
      {"'pre_tokenizer.pretokenizers.0.pattern' '\\b'",
       [](F& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "a\\b"; }},
      {"'pre_tokenizer.pretokenizers.0.pattern' is no pattern",
       [](F& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a"; }},
      {"'pre_tokenizer.pretokenizers.0.pattern.Regex'",
       [](F& f) {
         f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = std::string(8193, 'a');
       }},
      {"is one of more than 64",
       [](F& f) {
         F inner = {{"type", "Sequence"}, {"pretokenizers", F::array()}};
         for (int i = 0; i < 40; ++i) inner["pretokenizers"].push_back(part("Digits"));
         f["pre_tokenizer"]["pretokenizers"] = F::array({inner, inner});
       }},
      {"a second ByteLevel",
       [](F& f) { f["pre_tokenizer"]["pretokenizers"].push_back(part("ByteLevel")); }},
      {"'pre_tokenizer.replacement' is \"ab\"",
       [](F& f) {
         f["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "ab"}};
       }},
      {"'pre_tokenizer.prepend_scheme'",
       [](F& f) {
         f["pre_tokenizer"] = {
             {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "last"}};
       }},
      {"'pre_tokenizer.prepend_scheme'",
       [](F& f) {
         f["pre_tokenizer"] = {{"type", "Metaspace"},
                               {"replacement", "▁"},
                               {"add_prefix_space", false},
                               {"prepend_scheme", "always"}};
       }},
      {"'post_processor.type' is \"BertProcessing\"",
       [](F& f) { f["post_processor"] = part("BertProcessing"); }},
      {"'post_processor.single' has no Sequence",
       [](F& f) { f["post_processor"]["single"].erase(1); }},
      {"'post_processor.single.1'",
       [](F& f) { f["post_processor"]["single"][1]["Sequence"]["id"] = "B"; }},
      {"'post_processor.special_tokens.<|begin|>' is missing",
       [](F& f) { f["post_processor"]["special_tokens"].clear(); }},
      {"'post_processor.special_tokens.<|begin|>.ids.0' is 9999",
       [](F& f) { f["post_processor"]["special_tokens"]["<|begin|>"]["ids"][0] = 9999; }},
      {"'decoder.type' is \"WordPiece\"", [](F& f) { f["decoder"] = part("WordPiece"); }},
      {"'decoder.decoders.1' stands after",
       [](F& f) {
         f["decoder"] = {{"type", "Sequence"},
                         {"decoders", F::array({part("Fuse"), part("ByteFallback")})}};
       }},
      {"'decoder.decoders.1.stop' is 1",
       [](F& f) {
         f["decoder"] = {
             {"type", "Sequence"},
             {"decoders",
              F::array({part("Fuse"),
                        {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 1}}})}};
       }},
      {"'truncation' is {...}",
       [](F& f) {
         f["truncation"] = {{"max_length", 4}};
       }},
      {"'padding' is {...}",
       [](F& f) {
         f["padding"] = {{"strategy", "BatchLongest"}};
       }},
      {"'extras' is not supported", [](F& f) { f["extras"] = 1; }},
  };
  return kAll;
}

TEST(TokenizerFileTest, what_is_not_done_is_refused_by_name) {
  for (const Refusal& refusal : refusals()) {
    TokenizerFile file = byte_level_file();
    refusal.change(file);
    expect_refused(file.dump(), refusal.place);
  }
}

TEST(TokenizerFileTest, what_is_no_tokenizer_is_refused) {
  expect_refused("", "not JSON");
  expect_refused("[]", "expected an object");
  expect_refused("{}", "'model' is missing");
  expect_refused(R"({"model":{"type":"BPE","vocab":{},"merges":[]}})", "has no tokens");
  expect_refused(R"({"model":{"vocab":{"a":0,"a":1},"merges":[]}})", "'a' stands twice");
}

TEST(TokenizerFileTest, little_is_needed) {
  const auto made =
      Tokenizer::parse(R"({"model":{"vocab":{"a":0,"b":7},"merges":[]}})", "tokenizer.json");
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ((*made)->vocab_size(), 8);
  EXPECT_FALSE((*made)->has(3));
  EXPECT_EQ(*(*made)->encode("ab"), (std::vector<std::int32_t>{0, 7}));
}

TEST(TokenizerFileTest, empty_words_for_nothing_are_taken) {
  TokenizerFile file = byte_level_file();
  file["model"]["continuing_subword_prefix"] = "";
  file["model"]["end_of_word_suffix"] = "";
  file["model"]["dropout"] = 0.0;
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", TokenizerFile::array()}};
  EXPECT_EQ(tokens_of(file, "the"), Texts{"the"});
}

/// A folder with a tokenizer.
class TokenizerFolder : public ::testing::Test {
 protected:
  TokenizerFolder() { write("tokenizer.json", sentence_piece_file().dump()); }
  void write(const char* name, std::string_view text) const {
    write_all(directory_.file(name), text);
  }
  std::shared_ptr<const Tokenizer> open() const {
    auto made = Tokenizer::open(directory_.path());
    CHECK(made.ok());
    return *made;
  }
  std::string refusal() const {
    const auto made = Tokenizer::open(directory_.path());
    CHECK(made.status().code() == StatusCode::kInvalidInput);
    return made.status().message();
  }

  TempDir directory_;
};

TEST_F(TokenizerFolder, needs_no_other_file) {
  EXPECT_EQ(open()->bos_id(), std::nullopt);
  EXPECT_TRUE(open()->eos_ids().empty());
}

TEST_F(TokenizerFolder, says_which_tokens_begin_and_end) {
  write("tokenizer_config.json",
        R"({"bos_token":"<s>","eos_token":{"content":"</s>","lstrip":false}})");
  EXPECT_EQ(open()->bos_id(), 1);
  EXPECT_EQ(open()->eos_ids(), std::vector<std::int32_t>{2});
  write("generation_config.json", R"({"bos_token_id":0,"eos_token_id":[5,2]})");
  EXPECT_EQ(open()->bos_id(), 1);
  EXPECT_EQ(open()->eos_ids(), (std::vector<std::int32_t>{5, 2}));
  write("generation_config.json", R"({"eos_token_id":6})");
  write("tokenizer_config.json", R"({"bos_token":null,"model_max_length":1e30})");
  EXPECT_EQ(open()->bos_id(), std::nullopt);
  EXPECT_EQ(open()->eos_ids(), std::vector<std::int32_t>{6});
}

TEST_F(TokenizerFolder, adds_what_its_config_says_where_its_template_does_not) {
  TokenizerFile file = sentence_piece_file();
  file["post_processor"] = nullptr;
  write("tokenizer.json", file.dump());
  const std::string tokens = R"("bos_token":"<s>","eos_token":"</s>")";
  const auto encoded = [&](const std::string& more) {
    write("tokenizer_config.json", "{" + tokens + more + "}");
    return texts_of(*open(), *open()->encode("hello"));
  };
  EXPECT_EQ(encoded(""), Texts{"▁hello"});
  EXPECT_EQ(encoded(R"(,"add_bos_token":true)"), (Texts{"<s>", "▁hello"}));
  EXPECT_EQ(encoded(R"(,"add_bos_token":true,"add_eos_token":true)"),
            (Texts{"<s>", "▁hello", "</s>"}));
  write("tokenizer.json", sentence_piece_file().dump());
  EXPECT_EQ(encoded(R"(,"add_bos_token":true)"), (Texts{"<s>", "▁hello"}));
  EXPECT_EQ(encoded(R"(,"add_bos_token":false)"), (Texts{"<s>", "▁hello"}));
}

TEST_F(TokenizerFolder, that_lacks_a_file_or_has_a_bad_one_is_refused) {
  write("generation_config.json", R"({"eos_token_id":99999})");
  EXPECT_NE(refusal().find("99999"), std::string::npos) << refusal();
  write("generation_config.json", R"({"eos_token_id":"x"})");
  EXPECT_NE(refusal().find("generation_config.json: 'eos_token_id'"), std::string::npos)
      << refusal();
  write("generation_config.json", "{}");
  write("tokenizer_config.json", R"({"bos_token":[]})");
  EXPECT_NE(refusal().find("tokenizer_config.json: 'bos_token'"), std::string::npos) << refusal();
  std::filesystem::remove(directory_.file("tokenizer.json"));
  EXPECT_NE(refusal().find("tokenizer.json is not there"), std::string::npos) << refusal();
}

}  // namespace
}  // namespace airlock
