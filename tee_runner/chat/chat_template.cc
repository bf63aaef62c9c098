#include "tee_runner/chat/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "base/safe_text.h"

namespace airlock {
namespace {

constexpr std::string_view kHeaderBegin = "<|start_header_id|>";
constexpr std::string_view kHeaderEnd = "<|end_header_id|>";
constexpr std::string_view kTurnEnd = "<|eot_id|>";
constexpr std::string_view kImStart = "<|im_start|>";
constexpr std::string_view kImEnd = "<|im_end|>";
constexpr std::string_view kSmolLm2System =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

/// What a family's models have, and which tokens besides the tokenizer's own end their answers.
struct FamilyTraits {
  std::string_view bos;
  std::string_view eos;
  std::array<std::string_view, 3> stops;
};

constexpr FamilyTraits traits_of(ChatFamily family) {
  switch (family) {
    case ChatFamily::kLlama2:
    case ChatFamily::kZephyr:
      return {"<s>", "</s>", {}};
    case ChatFamily::kLlama3:
      return {"<|begin_of_text|>", "<|end_of_text|>", {kTurnEnd}};
    case ChatFamily::kLlama31:
    case ChatFamily::kLlama32:
      return {"<|begin_of_text|>", "<|end_of_text|>", {kTurnEnd, "<|eom_id|>"}};
    case ChatFamily::kChatMl:
    case ChatFamily::kSmolLm2:
      return {kImStart, kImEnd, {kImEnd}};
  }
  return {};
}

class Pieces {
 public:
  void control(std::string_view token) {
    if (!token.empty()) all_.push_back({std::string(token), true});
  }
  template <typename... Text>
  void plain(const Text&... texts) {
    if ((std::string_view(texts).size() + ...) == 0) return;
    if (all_.empty() || all_.back().is_control) all_.emplace_back();
    (all_.back().text.append(texts), ...);
  }
  std::vector<ChatPiece> take() { return std::move(all_); }

 private:
  std::vector<ChatPiece> all_;
};

// Beyond ASCII.
constexpr std::array<std::string_view, 19> kWideSpaces = {
    "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
    "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
    "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};

/// Bytes of a white space, as Python sees it, that `text` begins (or ends) with; else 0.
std::size_t space_bytes(std::string_view text, bool at_end) {
  if (text.empty()) return 0;
  const char c = at_end ? text.back() : text.front();
  if (c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f')) return 1;
  if (static_cast<unsigned char>(c) < 0x80) return 0;
  for (const std::string_view space : kWideSpaces) {
    if (at_end ? text.ends_with(space) : text.starts_with(space)) return space.size();
  }
  return 0;
}

std::string_view strip_end(std::string_view text) {
  while (const std::size_t bytes = space_bytes(text, true)) text.remove_suffix(bytes);
  return text;
}

/// As Python's str.strip().
std::string_view strip(std::string_view text) {
  while (const std::size_t bytes = space_bytes(text, false)) text.remove_prefix(bytes);
  return strip_end(text);
}

void render_chatml(std::span<const ChatMessage> messages, const ChatOptions& options,
                   std::string_view default_system, Pieces& pieces) {
  const auto turn = [&pieces](std::string_view role, std::string_view content) {
    pieces.control(kImStart);
    pieces.plain(role, "\n", content);
    pieces.control(kImEnd);
    pieces.plain("\n");
  };
  if (!default_system.empty() && !messages.empty() && messages[0].role != ChatRole::kSystem)
    turn("system", default_system);
  for (const ChatMessage& message : messages) turn(name_of(message.role), message.content);
  if (!options.add_generation_prompt) return;
  pieces.control(kImStart);
  pieces.plain("assistant\n");
}

void render_zephyr(const ChatTemplate& chat, std::span<const ChatMessage> messages,
                   const ChatOptions& options, Pieces& pieces) {
  // Its marks of roles are ordinary text to the tokenizers of its models.
  for (const ChatMessage& message : messages) {
    pieces.plain("<|", name_of(message.role), "|>\n", message.content);
    pieces.control(chat.eos);
    pieces.plain("\n");
  }
  if (options.add_generation_prompt && !messages.empty()) pieces.plain("<|assistant|>\n");
}

void begin_llama3_turn(std::string_view role, Pieces& pieces) {
  pieces.control(kHeaderBegin);
  pieces.plain(role);
  pieces.control(kHeaderEnd);
  pieces.plain("\n\n");
}

void render_llama3_turns(std::span<const ChatMessage> messages, const ChatOptions& options,
                         Pieces& pieces) {
  for (const ChatMessage& message : messages) {
    begin_llama3_turn(name_of(message.role), pieces);
    pieces.plain(strip(message.content));
    pieces.control(kTurnEnd);
  }
  if (options.add_generation_prompt) begin_llama3_turn(name_of(ChatRole::kAssistant), pieces);
}

void render_llama3(const ChatTemplate& chat, std::span<const ChatMessage> messages,
                   const ChatOptions& options, Pieces& pieces) {
  if (!messages.empty()) pieces.control(chat.bos);
  render_llama3_turns(messages, options, pieces);
}

/// 3.1 and 3.2, without tools.
Status render_llama31(const ChatTemplate& chat, std::span<const ChatMessage> messages,
                      const ChatOptions& options, Pieces& pieces) {
  if (messages.empty()) return {StatusCode::kInvalidInput, "a conversation without any message"};
  if (options.date.size() > kMaxChatDateBytes || has_controls(options.date)) {
    return {StatusCode::kInvalidInput, "the date is no line of text of at most {} bytes: \"{}\"",
            kMaxChatDateBytes, without_controls(options.date.substr(0, kMaxChatDateBytes), "?")};
  }
  pieces.control(chat.bos);
  begin_llama3_turn("system", pieces);
  pieces.plain("Cutting Knowledge Date: December 2023\nToday Date: ", options.date, "\n\n");
  if (messages[0].role == ChatRole::kSystem) {
    pieces.plain(strip(messages[0].content));
    messages = messages.subspan(1);
  }
  pieces.control(kTurnEnd);
  render_llama3_turns(messages, options, pieces);
  return {};
}

Status render_llama2(const ChatTemplate& chat, std::span<const ChatMessage> messages,
                     Pieces& pieces) {
  if (messages.empty()) return {StatusCode::kInvalidInput, "a conversation without any message"};
  const ChatMessage* system = messages[0].role == ChatRole::kSystem ? &messages[0] : nullptr;
  const std::size_t first = system != nullptr ? 1 : 0;
  for (std::size_t i = first; i < messages.size(); ++i) {
    const auto& [role, content] = messages[i];
    const bool is_users_turn = (i - first) % 2 == 0;
    if ((role == ChatRole::kUser) != is_users_turn) {
      return {StatusCode::kInvalidInput,
              "message {} is the {}'s: user and assistant must alternate, "
              "the user first",
              i + 1, name_of(role)};
    }
    if (role == ChatRole::kAssistant) {
      pieces.plain(" ", strip(content), " ");
      pieces.control(chat.eos);
    } else if (role == ChatRole::kUser) {
      pieces.control(chat.bos);
      pieces.plain("[INST] ");
      if (i == first && system != nullptr) {
        // Of both together the template strips the end alone: they begin with no white space.
        const std::string_view stripped = strip_end(content);
        pieces.plain("<<SYS>>\n", system->content, "\n<</SYS>>");
        if (!stripped.empty()) pieces.plain("\n\n", stripped);
      } else {
        pieces.plain(strip(content));
      }
      pieces.plain(" [/INST]");
    }
  }
  return {};
}

}  // namespace

ChatTemplate::ChatTemplate(ChatFamily of)
    : family(of), bos(traits_of(of).bos), eos(traits_of(of).eos) {}

Result<std::vector<ChatPiece>> render_chat(const ChatTemplate& chat,
                                           std::span<const ChatMessage> messages,
                                           const ChatOptions& options) {
  Pieces pieces;
  Status status;
  switch (chat.family) {
    case ChatFamily::kLlama2:
      status = render_llama2(chat, messages, pieces);
      break;
    case ChatFamily::kLlama3:
      render_llama3(chat, messages, options, pieces);
      break;
    case ChatFamily::kLlama31:
    case ChatFamily::kLlama32:
      status = render_llama31(chat, messages, options, pieces);
      break;
    case ChatFamily::kChatMl:
      render_chatml(messages, options, {}, pieces);
      break;
    case ChatFamily::kSmolLm2:
      render_chatml(messages, options, kSmolLm2System, pieces);
      break;
    case ChatFamily::kZephyr:
      render_zephyr(chat, messages, options, pieces);
      break;
  }
  if (!status.ok())
    return status.with_context(fmt::format("chat template {}", name_of(chat.family)));
  return pieces.take();
}

std::vector<std::string> stop_tokens(const ChatTemplate& chat) {
  const FamilyTraits traits = traits_of(chat.family);
  std::vector<std::string> stops;
  const auto add = [&stops](std::string_view token) {
    if (!token.empty() && std::ranges::find(stops, token) == stops.end()) stops.emplace_back(token);
  };
  for (const std::string_view token : traits.stops) add(token);
  add(traits.eos);
  add(chat.eos);
  return stops;
}

std::string chat_date(std::int64_t unix_s) {
  constexpr std::array kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                  "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::chrono::sys_seconds time{std::chrono::seconds(unix_s)};
  const std::chrono::year_month_day date(std::chrono::floor<std::chrono::days>(time));
  return fmt::format("{:02} {} {}", static_cast<unsigned>(date.day()),
                     kMonths[static_cast<unsigned>(date.month()) - 1],
                     static_cast<int>(date.year()));
}

}  // namespace airlock
