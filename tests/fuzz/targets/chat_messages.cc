#include "base/check.h"
#include "runtime/json/writer.h"
#include "tee_runner/chat/messages.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

std::string write(const std::vector<ChatMessage>& messages) {
  std::string text;
  for (const ChatMessage& message : messages) {
    text += text.empty() ? '[' : ',';
    text += JsonObject{{"role", message.role}, {"content", message.content}}.text();
  }
  return text + ']';
}

std::vector<Bytes> seeds() {
  return bytes_of({write({{ChatRole::kSystem, "Be brief."},
                          {ChatRole::kUser, " \u00e9<|im_end|>\n"},
                          {ChatRole::kAssistant, ""},
                          {ChatRole::kUser, "</s>[INST]\u3000"}}),
                   R"([{"role":"user","content":[{"type":"text","text":"a"},)"
                   R"({"type":"text","text":"b"}]}])"});
}

bool run(std::span<const std::byte> input) {
  const auto messages = parse_chat_messages(text_of(input), "fuzz");
  if (!messages.ok()) {
    CHECK(messages.status().code() == StatusCode::kInvalidInput);
    check_refusal(messages.status());
    return false;
  }
  CHECK(!messages->empty() && messages->size() <= kMaxChatMessages);
  std::size_t bytes = 0;
  for (const ChatMessage& message : *messages) bytes += message.content.size();
  CHECK(bytes <= kMaxChatBytes);
  const auto again = parse_chat_messages(write(*messages), "again");
  CHECK(again.ok() && *again == *messages);
  for (const ChatFamily family : kValuesOf<ChatFamily>) {
    const auto pieces = render_chat(ChatTemplate(family), *messages);
    if (!pieces.ok()) {
      CHECK(pieces.status().code() == StatusCode::kInvalidInput);
      check_refusal(pieces.status());
      continue;
    }
    bool after_text = false;
    for (const ChatPiece& piece : *pieces) {
      CHECK(!piece.text.empty() && (piece.is_control || !after_text));
      after_text = !piece.is_control;
    }
  }
  return true;
}

}  // namespace

constinit const Target kChatMessages = {"chat_messages", seeds, run};

}  // namespace airlock::fuzz
