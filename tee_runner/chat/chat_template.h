#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace airlock {

enum class ChatRole : std::uint8_t { kSystem, kUser, kAssistant };

constexpr std::string_view name_of(ChatRole role) {
  switch (role) {
    case ChatRole::kSystem:
      return "system";
    case ChatRole::kUser:
      return "user";
    case ChatRole::kAssistant:
      return "assistant";
  }
  return {};
}

/// One turn of a conversation; the content is UTF-8.
struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string content;
  bool operator==(const ChatMessage&) const = default;
};

/// How a model was taught to see a conversation. The templates of each family are written by hand;
/// a model's own, a program in a template language, is compared with them and never run
/// (docs/adr/0019-chat-templates-are-recognised-not-run.md).
enum class ChatFamily : std::uint8_t {
  kLlama2,
  kLlama3,
  kLlama31,
  kLlama32,
  kChatMl,
  kZephyr,
  // ChatML that begins with a system message of its own where the conversation has none.
  kSmolLm2,
};

/// As --chat-template has it.
constexpr std::string_view name_of(ChatFamily family) {
  switch (family) {
    case ChatFamily::kLlama2:
      return "llama-2";
    case ChatFamily::kLlama3:
      return "llama-3";
    case ChatFamily::kLlama31:
      return "llama-3.1";
    case ChatFamily::kLlama32:
      return "llama-3.2";
    case ChatFamily::kChatMl:
      return "chatml";
    case ChatFamily::kZephyr:
      return "zephyr";
    case ChatFamily::kSmolLm2:
      return "smollm2";
  }
  return {};
}

/// A family, and the tokens that a model's tokenizer_config.json has for it.
struct ChatTemplate {
  /// With the tokens that the family's own models have.
  explicit ChatTemplate(ChatFamily of);

  ChatFamily family;
  std::string bos;
  std::string eos;
  bool operator==(const ChatTemplate&) const = default;
};

/// A piece of a rendered conversation. Joined, the texts are what transformers renders. Never
/// empty.
struct ChatPiece {
  std::string text;
  // One special token, by its text, that the template put there: the tokenizer has to have it. What
  // a user wrote is never one, whatever it spells; the rest is text, encoded without looking for
  // special tokens. No two pieces of text follow each other: where they would, they are one, which
  // has to be encoded as one.
  bool is_control = false;
  bool operator==(const ChatPiece&) const = default;
};

inline constexpr std::string_view kDefaultChatDate = "26 Jul 2024";
inline constexpr std::size_t kMaxChatDateBytes = 64;

struct ChatOptions {
  // End with the beginning of the assistant's answer. Llama 2's has none.
  bool add_generation_prompt = true;
  // Llama 3.1 and 3.2 tell the model today's date. This one is their templates' own where nobody
  // says another; transformers passes the real one to 3.2's.
  std::string date{kDefaultChatDate};
};

/// As the family's template does, to the byte, with what it trims, puts before and leaves out
/// (llama-2: a system message that is not the first, where an answer would stand). The begin token
/// is in it where the family has one: whoever encodes the pieces adds none.
/// kInvalidInput for a conversation that it refuses, and for a date that is no line of text.
Result<std::vector<ChatPiece>> render_chat(const ChatTemplate& chat,
                                           std::span<const ChatMessage> messages,
                                           const ChatOptions& options = {});

/// The special tokens that end an answer, by their text; the tokenizer may lack some.
std::vector<std::string> stop_tokens(const ChatTemplate& chat);

/// "26 Jul 2024", of UTC.
std::string chat_date(std::int64_t unix_s);

}  // namespace airlock
