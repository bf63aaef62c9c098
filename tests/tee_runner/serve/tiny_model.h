#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/check.h"
#include "tee_runner/serve/served_model.h"
#include "tee_runner/tokenizer/byte_alphabet.h"
#include "tee_runner/tokenizer/tokenizer.h"

namespace airlock {

inline constexpr std::int32_t kTinyBegin = 256;
inline constexpr std::int32_t kTinyEnd = 257;
inline constexpr std::int32_t kTinyBos = 258;

/// A tokenizer whose token N below 256 is the byte N, with ChatML's two tokens and a begin token.
inline std::string tiny_tokenizer_json() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte)
    vocab[ByteAlphabet::get().text(static_cast<std::uint8_t>(byte))] = byte;
  const auto added = [](int id, const char* text) {
    return nlohmann::json{{"id", id},        {"content", text}, {"single_word", false},
                          {"lstrip", false}, {"rstrip", false}, {"normalized", false},
                          {"special", true}};
  };
  const nlohmann::json file = {
      {"version", "1.0"},
      {"added_tokens",
       {added(kTinyBegin, "<|im_start|>"), added(kTinyEnd, "<|im_end|>"), added(kTinyBos, "<s>")}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
  return file.dump();
}

inline std::shared_ptr<const Tokenizer> tiny_tokenizer() {
  auto tokenizer = Tokenizer::parse(tiny_tokenizer_json(), "tiny");
  CHECK(tokenizer.ok());
  return std::move(*tokenizer);
}

inline std::shared_ptr<const ServedModel> tiny_model() {
  ChatTemplate chat(ChatFamily::kChatMl);
  chat.eos = "<|im_end|>";
  auto model = ServedModel::create("tiny", PromptMaker::create(tiny_tokenizer(), chat).value());
  CHECK(model.ok());
  return std::move(*model);
}

}  // namespace airlock
