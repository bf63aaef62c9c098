#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "tee_runner/tokenizer/byte_alphabet.h"
#include "tee_runner/tokenizer/tokenizer.h"

namespace airlock {

/// Small tokenizer.json files of each kind, to be changed by a test.

using TokenizerFile = nlohmann::ordered_json;

/// Adds the tokens that `pairs` merge to, where they are not there yet, and the merges.
inline void add_merges(TokenizerFile& file,
                       std::initializer_list<std::pair<const char*, const char*>> pairs) {
  TokenizerFile& model = file["model"];
  for (const auto& [left, right] : pairs) {
    const std::string joined = std::string(left) + right;
    const auto id = model["vocab"].size();
    if (!model["vocab"].contains(joined)) model["vocab"][joined] = id;
    model["merges"].push_back(std::string(left) + " " + right);
  }
}

/// With the id that it has in model.vocab, or the next free one.
inline void add_token(TokenizerFile& file, const std::string& content, bool special,
                      const TokenizerFile& flags = TokenizerFile::object()) {
  const TokenizerFile& vocab = file["model"]["vocab"];
  std::size_t id = vocab.size();
  for (const auto& token : file["added_tokens"]) {
    if (!vocab.contains(token["content"].get<std::string>())) ++id;
  }
  if (vocab.contains(content)) id = vocab[content];
  TokenizerFile token = {{"id", id},          {"content", content}, {"single_word", false},
                         {"lstrip", false},   {"rstrip", false},    {"normalized", false},
                         {"special", special}};
  token.update(flags);
  file["added_tokens"].push_back(token);
}

inline TokenizerFile bare_file() {
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", TokenizerFile::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder", nullptr},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", TokenizerFile::object()},
            {"merges", TokenizerFile::array()}}}};
}

inline TokenizerFile begin_template(const std::string& token, std::int64_t id) {
  return {{"type", "TemplateProcessing"},
          {"single",
           {{{"SpecialToken", {{"id", token}, {"type_id", 0}}}},
            {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
          {"pair", TokenizerFile::array()},
          {"special_tokens", {{token, {{"id", token}, {"ids", {id}}, {"tokens", {token}}}}}}};
}

/// All bytes, a few words, and <|begin|>, <|end|>; LLaMA 3's pattern.
inline TokenizerFile byte_level_file() {
  TokenizerFile file = bare_file();
  for (int byte = 0; byte < 256; ++byte)
    file["model"]["vocab"][ByteAlphabet::get().text(static_cast<std::uint8_t>(byte))] = byte;
  add_merges(file, {{"t", "h"},
                    {"th", "e"},
                    {"Ġ", "the"},
                    {"h", "e"},
                    {"l", "l"},
                    {"he", "ll"},
                    {"hell", "o"},
                    {"Ġ", "Ġ"},
                    {"Ã", "©"},
                    {"1", "2"},
                    {"12", "3"}});
  file["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"},
         {"pattern",
          {{"Regex",
            R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}},
         {"behavior", "Isolated"},
         {"invert", false}},
        {{"type", "ByteLevel"},
         {"add_prefix_space", false},
         {"trim_offsets", true},
         {"use_regex", false}}}}};
  file["decoder"] = {{"type", "ByteLevel"},
                     {"add_prefix_space", true},
                     {"trim_offsets", true},
                     {"use_regex", true}};
  add_token(file, "<|begin|>", true);
  add_token(file, "<|end|>", true);
  file["post_processor"] =
      begin_template("<|begin|>", file["added_tokens"][0]["id"].get<std::int64_t>());
  return file;
}

/// <unk>, <s>, </s>, bytes, letters and a few words; LLaMA 2's normalizer and decoder.
inline TokenizerFile sentence_piece_file() {
  TokenizerFile file = bare_file();
  TokenizerFile& vocab = file["model"]["vocab"];
  for (const char* token : {"<unk>", "<s>", "</s>"}) vocab[token] = vocab.size();
  constexpr std::string_view kHex = "0123456789ABCDEF";
  for (const char high : kHex) {
    for (const char low : kHex) vocab[std::string("<0x") + high + low + '>'] = vocab.size();
  }
  for (const char* letter : {"▁", "a", "b", "c", "d", "e", "h", "l", "o", "r", "t", "w", "."})
    vocab[letter] = vocab.size();
  add_merges(file, {{"▁", "h"},
                    {"l", "l"},
                    {"▁h", "e"},
                    {"ll", "o"},
                    {"▁he", "llo"},
                    {"▁", "t"},
                    {"▁t", "he"},
                    {"h", "e"},
                    {"▁", "▁"},
                    {"a", "a"},
                    {"aa", "aa"}});
  file["model"]["merges"].erase(6);  // before "he" is there
  file["model"]["merges"].push_back("▁t he");
  file["model"]["unk_token"] = "<unk>";
  file["model"]["fuse_unk"] = true;
  file["model"]["byte_fallback"] = true;
  file["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers",
       {{{"type", "Prepend"}, {"prepend", "▁"}},
        {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}}}};
  file["decoder"] = {{"type", "Sequence"},
                     {"decoders",
                      {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                       {{"type", "ByteFallback"}},
                       {{"type", "Fuse"}},
                       {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  for (const char* token : {"<unk>", "<s>", "</s>"}) {
    file["added_tokens"].push_back({{"id", vocab[token]},
                                    {"content", token},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", true}});
  }
  file["post_processor"] = begin_template("<s>", 1);
  return file;
}

inline std::shared_ptr<const Tokenizer> make_tokenizer(const TokenizerFile& file) {
  auto tokenizer = Tokenizer::parse(file.dump(), "tiny");
  CHECK(tokenizer.ok());
  return *tokenizer;
}

using Texts = std::vector<std::string>;

/// The tokens' own texts.
inline Texts texts_of(const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids) {
  Texts texts;
  for (const std::int32_t id : ids) texts.emplace_back(tokenizer.token(id));
  return texts;
}

/// Without what the template puts around.
inline Texts tokens_of(const Tokenizer& tokenizer, std::string_view text,
                       Specials specials = Specials::kParse) {
  const auto ids = tokenizer.encode(text, specials, Around::kNothing);
  CHECK(ids.ok());
  return texts_of(tokenizer, *ids);
}
inline Texts tokens_of(const TokenizerFile& file, std::string_view text) {
  return tokens_of(*make_tokenizer(file), text);
}

}  // namespace airlock
