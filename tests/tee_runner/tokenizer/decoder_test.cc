// decode() and StreamDecoder.

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>
#include <vector>

#include "tee_runner/tokenizer/utf8.h"
#include "tests/support/tiny_tokenizer.h"

namespace airlock {
namespace {

using Ids = std::vector<std::int32_t>;

Ids ids_of(const Tokenizer& tokenizer, const Texts& tokens) {
  Ids ids;
  for (const std::string& token : tokens) ids.push_back(tokenizer.find(token).value());
  return ids;
}
std::string decoded(const TokenizerFile& file, const Texts& tokens, Shown shown = Shown::kAll) {
  const auto tokenizer = make_tokenizer(file);
  return tokenizer->decode(ids_of(*tokenizer, tokens), shown).value();
}
/// What each id gives out, and the flush.
Texts streamed(const TokenizerFile& file, const Texts& tokens) {
  const auto tokenizer = make_tokenizer(file);
  StreamDecoder stream(tokenizer);
  Texts texts;
  for (const std::int32_t id : ids_of(*tokenizer, tokens)) texts.push_back(stream.push(id).value());
  texts.push_back(stream.flush());
  return texts;
}

TEST(Decode, joins_bytes_to_characters) {
  const TokenizerFile file = byte_level_file();
  EXPECT_EQ(decoded(file, {"hello", "Ġthe", "Ã", "©"}), "hello theé");
  EXPECT_EQ(decoded(file, {"Ã", "a", "â", "Ĥ"}), "\ufffda\ufffd");
}

TEST(Decode, shows_special_tokens_or_leaves_them_out) {
  const TokenizerFile file = byte_level_file();
  EXPECT_EQ(decoded(file, {"<|begin|>", "the", "<|end|>"}), "<|begin|>the<|end|>");
  EXPECT_EQ(decoded(file, {"<|begin|>", "the", "<|end|>"}, Shown::kNoSpecial), "the");
  // A token that is not written in the alphabet of bytes is its own text.
  TokenizerFile other = file;
  add_token(other, "<a €>", true);
  EXPECT_EQ(decoded(other, {"<a €>", "Ġ"}), "<a €> ");
}

TEST(Decode, undoes_llama2s_spaces_and_bytes) {
  const TokenizerFile file = sentence_piece_file();
  EXPECT_EQ(decoded(file, {"▁hello", "▁the"}), "hello the");
  EXPECT_EQ(decoded(file, {"▁▁", "a"}), " a");
  EXPECT_EQ(decoded(file, {"<0xC3>", "<0xA9>", "▁the"}), "é the");
  // One bad byte makes each of its run unreadable.
  EXPECT_EQ(decoded(file, {"<0xC3>", "<0xA9>", "<0xFF>", "a"}), "\ufffd\ufffd\ufffda");
  EXPECT_EQ(decoded(file, {"<s>", "▁hello"}), "<s> hello");
  EXPECT_EQ(decoded(file, {"<s>", "▁hello"}, Shown::kNoSpecial), "hello");
}

TEST(Decode, metaspace_drops_the_first_ones_space) {
  TokenizerFile file = sentence_piece_file();
  file["decoder"] = {
      {"type", "Sequence"},
      {"decoders",
       {{{"type", "ByteFallback"}},
        {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}}}}};
  EXPECT_EQ(decoded(file, {"▁hello", "▁the"}), "hello the");
  EXPECT_EQ(decoded(file, {"▁▁", "▁the"}), " the");
  file["decoder"]["decoders"][1]["prepend_scheme"] = "never";
  EXPECT_EQ(decoded(file, {"▁hello", "▁the"}), " hello the");
}

TEST(Decode, strip_before_fuse_is_of_each_token) {
  TokenizerFile file = sentence_piece_file();
  file["decoder"] = {{"type", "Strip"}, {"content", "l"}, {"start", 1}, {"stop", 1}};
  EXPECT_EQ(decoded(file, {"ll", "a", "l"}), "a");
  file["decoder"]["stop"] = 0;
  EXPECT_EQ(decoded(file, {"ll", "a", "l"}), "la");
}

TEST(Decode, without_a_decoder_spaces_lie_between) {
  TokenizerFile file = sentence_piece_file();
  file["decoder"] = nullptr;
  EXPECT_EQ(decoded(file, {"a", "b"}), "a b");
}

TEST(Decode, id_that_is_no_token_is_refused) {
  const auto tokenizer = make_tokenizer(byte_level_file());
  for (const std::int32_t id : {-1, tokenizer->vocab_size(), 2147483647}) {
    const auto text = tokenizer->decode(Ids{0, id});
    ASSERT_FALSE(text.ok());
    EXPECT_EQ(text.status().code(), StatusCode::kInvalidInput);
    EXPECT_NE(text.status().message().find(std::to_string(id)), std::string::npos);
    EXPECT_FALSE(StreamDecoder(tokenizer).push(id).ok());
  }
}

TEST(StreamDecoder, holds_the_bytes_of_a_character_until_it_is_whole) {
  const TokenizerFile file = byte_level_file();
  EXPECT_EQ(streamed(file, {"Ġthe", "Ã", "©", "a"}), (Texts{" the", "", "é", "a", ""}));
  EXPECT_EQ(streamed(file, {"a", "â", "Ĥ"}), (Texts{"a", "", "", "\ufffd"}));
  EXPECT_EQ(streamed(file, {"â", "a"}), (Texts{"", "\ufffda", ""}));
}

TEST(StreamDecoder, holds_a_run_of_byte_tokens_until_it_ends) {
  const TokenizerFile file = sentence_piece_file();
  EXPECT_EQ(streamed(file, {"▁the", "<0xC3>", "<0xA9>", "▁the"}),
            (Texts{"the", "", "", "é the", ""}));
  EXPECT_EQ(streamed(file, {"<0xC3>"}), (Texts{"", "\ufffd"}));
}

TEST(StreamDecoder, begins_anew_after_a_flush) {
  const auto tokenizer = make_tokenizer(sentence_piece_file());
  StreamDecoder stream(tokenizer);
  const std::int32_t hello = tokenizer->find("▁hello").value();
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(stream.push(hello).value(), "hello");
    EXPECT_EQ(stream.push(hello).value(), " hello");
    EXPECT_EQ(stream.flush(), "");
  }
}

TEST(StreamDecoder, keeps_its_tokenizer) {
  auto tokenizer = make_tokenizer(sentence_piece_file());
  const std::int32_t hello = tokenizer->find("▁hello").value();
  StreamDecoder stream(std::move(tokenizer));
  EXPECT_EQ(stream.push(hello).value(), "hello");
}

void check_stream(const std::shared_ptr<const Tokenizer>& tokenizer, const Ids& ids) {
  for (const Shown shown : {Shown::kAll, Shown::kNoSpecial}) {
    StreamDecoder stream(tokenizer, shown);
    std::string all;
    for (const std::int32_t id : ids) {
      const std::string text = stream.push(id).value();
      RC_ASSERT(repaired_utf8(text) == text);
      all += text;
    }
    all += stream.flush();
    RC_ASSERT(all == tokenizer->decode(ids, shown).value());
  }
}

RC_GTEST_PROP(StreamDecoder, gives_what_decode_gives, ()) {
  static const auto kTokenizers = {make_tokenizer(byte_level_file()),
                                   make_tokenizer(sentence_piece_file())};
  for (const auto& tokenizer : kTokenizers) {
    check_stream(tokenizer, *rc::gen::container<Ids>(rc::gen::inRange(0, tokenizer->vocab_size())));
  }
}

/// Any text: bytes, repaired, with what the tokenizer knows among them.
rc::Gen<std::string> any_text() {
  const auto piece = rc::gen::oneOf(
      rc::gen::string<std::string>(),
      rc::gen::element<std::string>(" ", "  ", "the", " hello", "\n", "é", "€", "\U0001f600", "123",
                                    "<|begin|>", "<|end|>", "<s>", "\u3000", "'s"));
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(piece),
                      [](const std::vector<std::string>& pieces) {
                        std::string text;
                        for (const std::string& one : pieces) text += one;
                        return repaired_utf8(text);
                      });
}

RC_GTEST_PROP(ByteLevel, text_comes_back_from_its_ids, ()) {
  static const auto kTokenizer = make_tokenizer(byte_level_file());
  const std::string text = *any_text();
  for (const Specials specials : {Specials::kParse, Specials::kPlain}) {
    const Ids ids = kTokenizer->encode(text, specials, Around::kNothing).value();
    RC_ASSERT(kTokenizer->decode(ids).value() == text);
    if (specials == Specials::kParse) continue;
    for (const std::int32_t id : ids) RC_ASSERT(!kTokenizer->is_special(id));
  }
}

RC_GTEST_PROP(Segments, are_one_text_where_all_may_hold_tokens, ()) {
  static const auto kTokenizers = {make_tokenizer(byte_level_file()),
                                   make_tokenizer(sentence_piece_file())};
  const auto pieces = *rc::gen::container<std::vector<std::string>>(any_text());
  std::string whole;
  std::vector<TextSegment> segments;
  for (const std::string& piece : pieces) {
    whole += piece;
    segments.push_back({piece, Specials::kParse});
  }
  for (const auto& tokenizer : kTokenizers)
    RC_ASSERT(tokenizer->encode(segments).value() == tokenizer->encode(whole).value());
}

/// A prompt as a chat has it: what a user typed spells no token here, so it makes no difference
/// that it may not be one.
RC_GTEST_PROP(Segments, of_users_are_split_as_the_whole_text_is, ()) {
  static const auto kTokenizers = {make_tokenizer(byte_level_file()),
                                   make_tokenizer(sentence_piece_file())};
  const auto users = *rc::gen::container<std::vector<std::string>>(any_text());
  std::vector<std::string> texts;
  for (std::string user : users) {
    std::erase(user, '<');
    texts.push_back(*rc::gen::element<std::string>("<|end|>", "</s>the", "hel", "\n\n", " ", ""));
    texts.push_back(std::move(user));
  }
  std::string whole;
  std::vector<TextSegment> segments;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    whole += texts[i];
    segments.push_back({texts[i], i % 2 == 0 ? Specials::kParse : Specials::kPlain});
  }
  for (const auto& tokenizer : kTokenizers)
    RC_ASSERT(tokenizer->encode(segments).value() == tokenizer->encode(whole).value());
}

}  // namespace
}  // namespace airlock
