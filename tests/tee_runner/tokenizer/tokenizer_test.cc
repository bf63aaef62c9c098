#include "tee_runner/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/support/tiny_tokenizer.h"

namespace airlock {
namespace {

TEST(Tokenizer, splits_bytes_into_words_by_llama3s_rule) {
  const TokenizerFile file = byte_level_file();
  EXPECT_EQ(tokens_of(file, "hello the 1234"), (Texts{"hello", "Ġthe", "Ġ", "123", "4"}));
  EXPECT_EQ(tokens_of(file, "the   the"), (Texts{"the", "ĠĠ", "Ġthe"}));
  EXPECT_EQ(tokens_of(file, "é\r\n"), (Texts{"Ã©", "č", "Ċ"}));
  EXPECT_EQ(tokens_of(file, std::string(1, '\0')), (Texts{"Ā"}));
}

TEST(Tokenizer, splits_single_digits_and_by_gpt2s_rule) {
  TokenizerFile file = byte_level_file();
  file["pre_tokenizer"]["pretokenizers"] = {{{"type", "Digits"}, {"individual_digits", true}},
                                            {{"type", "ByteLevel"},
                                             {"add_prefix_space", false},
                                             {"trim_offsets", true},
                                             {"use_regex", true}}};
  EXPECT_EQ(tokens_of(file, "the 12 the"), (Texts{"the", "Ġ", "1", "2", "Ġthe"}));
  file["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = false;
  EXPECT_EQ(tokens_of(file, "the 12 the"), (Texts{"the", "Ġ", "12", "Ġthe"}));
  file["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true;
  EXPECT_EQ(tokens_of(file, "the"), (Texts{"Ġthe"}));
}

TEST(Tokenizer, removes_what_a_split_says) {
  TokenizerFile file = byte_level_file();
  TokenizerFile& split = file["pre_tokenizer"]["pretokenizers"][0];
  split["pattern"] = {{"String", "l"}};
  split["behavior"] = "Removed";
  EXPECT_EQ(tokens_of(file, "hello"), (Texts{"he", "o"}));
  split["invert"] = true;
  EXPECT_EQ(tokens_of(file, "hello"), (Texts{"l", "l"}));
}

TEST(Tokenizer, writes_spaces_as_llama2s_normalizer_does) {
  const TokenizerFile file = sentence_piece_file();
  EXPECT_EQ(tokens_of(file, "hello the"), (Texts{"▁hello", "▁the"}));
  EXPECT_EQ(tokens_of(file, " a"), (Texts{"▁▁", "a"}));
  EXPECT_EQ(tokens_of(file, "a é"), (Texts{"▁", "a", "▁", "<0xC3>", "<0xA9>"}));
  EXPECT_EQ(tokens_of(file, ""), Texts{});
  // Each stretch between special tokens begins anew.
  EXPECT_EQ(tokens_of(file, "a</s>a"), (Texts{"▁", "a", "</s>", "▁", "a"}));
}

TEST(Tokenizer, writes_spaces_as_metaspace_does_in_each_of_its_forms) {
  TokenizerFile file = sentence_piece_file();
  file["normalizer"] = nullptr;
  TokenizerFile& part = file["pre_tokenizer"];
  const auto with = [&](const std::string& flags) {
    part = TokenizerFile::parse(R"({"type":"Metaspace","replacement":"▁")" + flags + "}");
    return file;
  };
  const std::string text = "a a</s>a";
  const Texts always = {"▁", "a", "▁", "a", "</s>", "▁", "a"};
  const Texts first = {"▁", "a", "▁", "a", "</s>", "a"};
  const Texts never = {"a", "▁", "a", "</s>", "a"};
  EXPECT_EQ(tokens_of(with(""), text), always);
  EXPECT_EQ(tokens_of(with(R"(,"add_prefix_space":true,"str_rep":"▁")"), text), always);
  EXPECT_EQ(tokens_of(with(R"(,"add_prefix_space":false)"), text), never);
  EXPECT_EQ(tokens_of(with(R"(,"prepend_scheme":"always","split":true)"), text), always);
  EXPECT_EQ(tokens_of(with(R"(,"prepend_scheme":"first","split":true)"), text), first);
  EXPECT_EQ(tokens_of(with(R"(,"prepend_scheme":"never","split":true)"), text), never);
  EXPECT_EQ(tokens_of(with(R"(,"split":true)"), "  a"), (Texts{"▁", "▁", "a"}));
  EXPECT_EQ(tokens_of(with(R"(,"split":false)"), "  a"), (Texts{"▁▁", "a"}));
  EXPECT_EQ(tokens_of(with(""), "▁a"), (Texts{"▁", "a"}));
}

TEST(Tokenizer, template_goes_around_a_text) {
  TokenizerFile file = byte_level_file();
  auto& single = file["post_processor"]["single"];
  single.push_back({{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}});
  const auto end = file["added_tokens"][1]["id"];
  file["post_processor"]["special_tokens"]["<|end|>"] = {
      {"id", "<|end|>"}, {"ids", {end}}, {"tokens", {"<|end|>"}}};
  file["post_processor"] = {
      {"type", "Sequence"},
      {"processors", {{{"type", "ByteLevel"}, {"trim_offsets", false}}, file["post_processor"]}}};
  const auto tokenizer = make_tokenizer(file);
  EXPECT_EQ(texts_of(*tokenizer, *tokenizer->encode("the")),
            (Texts{"<|begin|>", "the", "<|end|>"}));
  EXPECT_EQ(texts_of(*tokenizer, *tokenizer->encode("")), (Texts{"<|begin|>", "<|end|>"}));
  EXPECT_EQ(tokens_of(*tokenizer, "the"), Texts{"the"});
}

TEST(Tokenizer, added_tokens_next_to_each_other_are_each_found) {
  TokenizerFile file = byte_level_file();
  add_token(file, "<|end|><|end|>", false);
  EXPECT_EQ(tokens_of(file, "<|end|><|begin|><|end|><|end|><|end"),
            (Texts{"<|end|>", "<|begin|>", "<|end|><|end|>", "<", "|", "e", "n", "d"}));
}

TEST(Tokenizer, added_tokens_take_the_space_that_their_flags_say) {
  TokenizerFile file = byte_level_file();
  add_token(file, "<L>", true, {{"lstrip", true}});
  add_token(file, "<R>", true, {{"rstrip", true}});
  EXPECT_EQ(tokens_of(file, "the \u3000<L> the"), (Texts{"the", "<L>", "Ġthe"}));
  EXPECT_EQ(tokens_of(file, "the <R> \n <L>the"), (Texts{"the", "Ġ", "<R>", "<L>", "the"}));
}

TEST(Tokenizer, added_token_that_is_a_single_word_stands_alone) {
  TokenizerFile file = byte_level_file();
  add_token(file, "lo", false, {{"single_word", true}});
  for (const char* alone : {"lo", ".lo", "lo lo", "-lo."})
    EXPECT_EQ(tokens_of(file, alone).back() == "lo" || tokens_of(file, alone)[1] == "lo", true)
        << alone;
  for (const char* within : {"lox", "xlo", "lo_", "1lo", "lo\u0301", "élo"}) {
    for (const std::string& token : tokens_of(file, within)) EXPECT_NE(token, "lo") << within;
  }
}

TEST(Tokenizer, added_token_that_is_normalized_is_found_in_what_the_normalizer_made) {
  TokenizerFile file = sentence_piece_file();
  add_token(file, "o w", false, {{"normalized", true}});
  // Its own text is normalized as well: "▁o▁w".
  EXPECT_EQ(tokens_of(file, "a o wa"), (Texts{"▁", "a", "o w", "a"}));
  EXPECT_EQ(tokens_of(file, "o w"), Texts{"o w"});
}

TEST(Tokenizer, added_token_of_the_vocabulary_keeps_its_id) {
  TokenizerFile file = byte_level_file();
  const auto id = file["model"]["vocab"]["hello"];
  file["added_tokens"].push_back({{"id", id}, {"content", "hello"}, {"special", true}});
  const auto tokenizer = make_tokenizer(file);
  EXPECT_EQ(tokens_of(*tokenizer, "xhellox"), (Texts{"x", "hello", "x"}));
  EXPECT_TRUE(tokenizer->is_special(id.get<std::int32_t>()));
}

TEST(Tokenizer, plain_text_never_becomes_an_added_token) {
  TokenizerFile file = byte_level_file();
  add_token(file, "<tool>", false);
  const auto tokenizer = make_tokenizer(file);
  for (const char* text : {"<|begin|>", "<|end|>x", "<tool>"}) {
    for (const std::string& token : tokens_of(*tokenizer, text, Specials::kPlain))
      EXPECT_EQ(token.size(), 1U) << token;
    EXPECT_EQ(
        tokenizer->decode(*tokenizer->encode(text, Specials::kPlain, Around::kNothing)).value(),
        text);
  }
}

TEST(Tokenizer, segments_are_split_into_words_as_one_text) {
  const auto tokenizer = make_tokenizer(byte_level_file());
  const TextSegment segments[] = {{"<|begin|>he", Specials::kParse},
                                  {"llo", Specials::kPlain},
                                  {" the", Specials::kPlain},
                                  {"<|end|>", Specials::kParse}};
  EXPECT_EQ(texts_of(*tokenizer, *tokenizer->encode(segments, Around::kNothing)),
            (Texts{"<|begin|>", "hello", "Ġthe", "<|end|>"}));
}

TEST(Tokenizer, special_token_lies_in_control_segments_alone) {
  const auto tokenizer = make_tokenizer(byte_level_file());
  const TextSegment half[] = {{"<|en", Specials::kParse}, {"d|>", Specials::kPlain}};
  const TextSegment user[] = {{"a", Specials::kParse}, {"<|end|>", Specials::kPlain}};
  const TextSegment control[] = {{"<|en", Specials::kParse}, {"d|>", Specials::kParse}};
  const TextSegment apart[] = {
      {"<|en", Specials::kParse}, {"", Specials::kPlain}, {"d|>", Specials::kParse}};
  const auto has_end = [&](std::span<const TextSegment> segments) {
    const auto texts = texts_of(*tokenizer, *tokenizer->encode(segments, Around::kNothing));
    return std::ranges::find(texts, "<|end|>") != texts.end();
  };
  EXPECT_FALSE(has_end(half));
  EXPECT_FALSE(has_end(user));
  EXPECT_TRUE(has_end(control));
  EXPECT_TRUE(has_end(apart));
}

TEST(Tokenizer, normalized_tokens_keep_to_control_segments_too) {
  TokenizerFile file = sentence_piece_file();
  file["normalizer"]["normalizers"].erase(0);
  add_token(file, "w d", true, {{"normalized", true}});
  const auto tokenizer = make_tokenizer(file);
  const TextSegment segments[] = {{"w d", Specials::kPlain},
                                  {" w d ", Specials::kParse},
                                  {"w", Specials::kParse},
                                  {" d", Specials::kPlain}};
  EXPECT_EQ(texts_of(*tokenizer, *tokenizer->encode(segments, Around::kNothing)),
            (Texts{"w", "▁", "d", "▁", "w d", "▁", "w", "▁", "d"}));
}

TEST(Tokenizer, text_that_is_not_utf8_is_repaired) {
  const auto tokenizer = make_tokenizer(byte_level_file());
  EXPECT_EQ(*tokenizer->encode("a\xff"), *tokenizer->encode("a\ufffd"));
  const TextSegment cut[] = {{"\xe2\x82", Specials::kParse}, {"\xac", Specials::kParse}};
  EXPECT_EQ(*tokenizer->encode(cut), *tokenizer->encode("\ufffd\ufffd"));
}

TEST(Tokenizer, tokens_can_be_looked_up) {
  const auto tokenizer = make_tokenizer(byte_level_file());
  EXPECT_EQ(tokenizer->token(*tokenizer->find("Ġthe")), "Ġthe");
  EXPECT_EQ(tokenizer->find("nothing"), std::nullopt);
  EXPECT_EQ(tokenizer->vocab_size(), *tokenizer->find("<|end|>") + 1);
  EXPECT_FALSE(tokenizer->has(-1));
  EXPECT_FALSE(tokenizer->has(tokenizer->vocab_size()));
  EXPECT_TRUE(tokenizer->is_special(*tokenizer->find("<|end|>")));
  EXPECT_FALSE(tokenizer->is_special(0));
  EXPECT_FALSE(tokenizer->is_special(-7));
}

TEST(Tokenizer, too_long_a_text_is_refused) {
  const auto tokenizer = make_tokenizer(byte_level_file());
  const auto ids = tokenizer->encode(std::string((64U << 20U) + 1, 'a'));
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ids.status().code(), StatusCode::kInvalidInput);
}

TEST(Tokenizer, words_of_any_length_take_their_time_once) {
  // Quadratic, each of these would take hours.
  const std::string a(1U << 20U, 'a');
  const std::string spaces(1U << 20U, ' ');
  for (const TokenizerFile& file : {byte_level_file(), sentence_piece_file()}) {
    const auto tokenizer = make_tokenizer(file);
    EXPECT_FALSE(tokenizer->encode(a)->empty());
    EXPECT_FALSE(tokenizer->encode(spaces)->empty());
  }
}

TEST(Tokenizer, one_serves_many_threads) {
  const auto tokenizer = make_tokenizer(byte_level_file());
  const auto expected = *tokenizer->encode("hello the é 123 <|end|>");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round)
        EXPECT_EQ(*tokenizer->encode("hello the é 123 <|end|>"), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace airlock
