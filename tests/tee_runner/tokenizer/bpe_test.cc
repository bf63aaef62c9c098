#include "tee_runner/tokenizer/bpe.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/tiny_tokenizer.h"

namespace airlock {
namespace {

/// A Bpe with what it reads.
struct Model {
  explicit Model(const TokenizerFile& model) : json(parse_json(model.dump(), "model").value()) {
    bpe = Bpe::read(JsonReader(json, "model", status), vocabulary);
  }
  std::vector<std::int32_t> encode(std::string_view word) const {
    BpeScratch scratch;
    std::vector<std::int32_t> ids;
    bpe.encode(word, Specials::kParse, scratch, ids);
    return ids;
  }
  Texts tokens(std::string_view word) const {
    Texts texts;
    for (const std::int32_t id : encode(word)) texts.push_back(vocabulary.text(id));
    return texts;
  }

  Json json;
  Status status;
  Vocabulary vocabulary;
  Bpe bpe;
};

TEST(Bpe, lower_ranks_come_first_and_of_equals_the_leftmost) {
  const Model model(sentence_piece_file()["model"]);
  ASSERT_TRUE(model.status.ok()) << model.status.message();
  EXPECT_EQ(model.tokens("▁hello"), (Texts{"▁hello"}));
  EXPECT_EQ(model.tokens("▁the"), (Texts{"▁the"}));
  EXPECT_EQ(model.tokens("aaa"), (Texts{"aa", "a"}));
  EXPECT_EQ(model.tokens("aaaaaaa"), (Texts{"aaaa", "aa", "a"}));
  EXPECT_EQ(model.tokens("lll"), (Texts{"ll", "l"}));
}

TEST(Bpe, merges_may_be_pairs) {
  TokenizerFile file = sentence_piece_file()["model"];
  for (auto& merge : file["merges"]) {
    const std::string text = merge.get<std::string>();
    const std::size_t space = text.find(' ');
    merge = {text.substr(0, space), text.substr(space + 1)};
  }
  EXPECT_EQ(Model(file).tokens("▁hello"), (Texts{"▁hello"}));
}

TEST(Bpe, character_that_is_no_token_becomes_bytes) {
  const Model model(sentence_piece_file()["model"]);
  EXPECT_EQ(model.tokens("aé"), (Texts{"a", "<0xC3>", "<0xA9>"}));
}

TEST(Bpe, unknown_characters_are_one_token_or_each) {
  TokenizerFile file = sentence_piece_file()["model"];
  file["byte_fallback"] = false;
  EXPECT_EQ(Model(file).tokens("aéüb"), (Texts{"a", "<unk>", "b"}));
  file["fuse_unk"] = false;
  EXPECT_EQ(Model(file).tokens("aéüb"), (Texts{"a", "<unk>", "<unk>", "b"}));
  file["unk_token"] = nullptr;
  EXPECT_EQ(Model(file).tokens("aéüb"), (Texts{"a", "b"}));
}

TEST(Bpe, byte_that_is_missing_makes_the_character_unknown) {
  TokenizerFile file = sentence_piece_file()["model"];
  file["vocab"]["other"] = file["vocab"]["<0xA9>"];
  file["vocab"].erase("<0xA9>");
  EXPECT_EQ(Model(file).tokens("éb"), (Texts{"<unk>", "b"}));
}

TEST(Bpe, word_that_is_a_token_needs_no_merges_where_the_file_says_so) {
  TokenizerFile file = byte_level_file()["model"];
  file["vocab"]["xyz"] = file["vocab"].size();
  EXPECT_EQ(Model(file).tokens("xyz"), (Texts{"x", "y", "z"}));
  file["ignore_merges"] = true;
  EXPECT_EQ(Model(file).tokens("xyz"), (Texts{"xyz"}));
}

TEST(Bpe, special_tokens_come_from_no_plain_word) {
  TokenizerFile file = sentence_piece_file()["model"];
  file["ignore_merges"] = true;
  Model model(file);
  std::vector<bool> special(file["vocab"].size());
  special[static_cast<std::size_t>(model.vocabulary.find("▁hello"))] = true;
  model.bpe.set_special(special);
  BpeScratch scratch;
  std::vector<std::int32_t> ids;
  model.bpe.encode("▁hello", Specials::kPlain, scratch, ids);
  EXPECT_EQ(ids.size(), 2U);
  EXPECT_EQ(model.tokens("▁hello"), (Texts{"▁hello"}));
}

/// Looks for the best merge anew after each.
std::vector<std::int32_t> merge_naively(const Vocabulary& vocabulary, const TokenizerFile& model,
                                        const std::string& word) {
  std::map<std::pair<std::string, std::string>, std::size_t> ranks;
  for (std::size_t rank = 0; rank < model["merges"].size(); ++rank) {
    const std::string text = model["merges"][rank];
    const std::size_t space = text.find(' ');
    ranks[{text.substr(0, space), text.substr(space + 1)}] = rank;
  }
  Texts tokens;
  for (const char letter : word) tokens.emplace_back(1, letter);
  while (true) {
    std::size_t best = ranks.size();
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto found = ranks.find({tokens[i], tokens[i + 1]});
      if (found != ranks.end() && found->second < best)
        std::tie(best, at) = std::pair(found->second, i);
    }
    if (best == ranks.size()) break;
    tokens[at] += tokens[at + 1];
    tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  std::vector<std::int32_t> ids;
  for (const std::string& token : tokens) ids.push_back(vocabulary.find(token));
  return ids;
}

RC_GTEST_PROP(Bpe, merges_as_one_that_looks_at_everything, ()) {
  const auto letters = rc::gen::element('a', 'b', 'c');
  // Any tree of merges: each joins two tokens that are there.
  Texts tokens = {"a", "b", "c"};
  TokenizerFile model = bare_file()["model"];
  for (const std::string& token : tokens) model["vocab"][token] = model["vocab"].size();
  const int count = *rc::gen::inRange(0, 12);
  for (int i = 0; i < count; ++i) {
    const std::string left = *rc::gen::elementOf(tokens);
    const std::string right = *rc::gen::elementOf(tokens);
    if (left.size() + right.size() > 12) continue;
    const std::string merge = left + " " + right;
    if (std::ranges::find(model["merges"], TokenizerFile(merge)) != model["merges"].end()) continue;
    model["merges"].push_back(merge);
    if (model["vocab"].contains(left + right)) continue;
    model["vocab"][left + right] = model["vocab"].size();
    tokens.push_back(left + right);
  }
  // Long ones are taken apart where no merge joins.
  const auto length = *rc::gen::inRange<std::size_t>(0, 200);
  const auto word = *rc::gen::container<std::string>(length, letters);
  const Model made(model);
  RC_ASSERT(made.status.ok());
  RC_ASSERT(made.encode(word) == merge_naively(made.vocabulary, model, word));
}

}  // namespace
}  // namespace airlock
