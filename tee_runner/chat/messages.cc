#include "tee_runner/chat/messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string>

namespace airlock {
namespace {

/// Refuses members of other names: a setting that was not heeded would be worse than none.
void demand_known(const JsonReader& object, std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : object.members(kMaxContentParts)) {
    if (std::ranges::find(known, key) != known.end()) continue;
    return object.fail(fmt::format("has an unknown member '{}'; known: {}", printable(key),
                                   fmt::join(known, ", ")));
  }
}

/// Appends a text, within what all of them may have.
void read_text(const JsonReader& value, std::size_t& left_bytes, std::string& out) {
  if (!value.json().is_string()) return value.refuse("a text");
  const std::string& text = value.json().text;
  if (text.size() > left_bytes) {
    return value.fail(
        fmt::format("is too long: all contents together may have {} bytes", kMaxChatBytes));
  }
  left_bytes -= text.size();
  out += text;
}

void read_content(const JsonReader& value, std::size_t& left_bytes, std::string& out) {
  if (value.json().kind != Json::Kind::kArray) {
    if (!value.json().is_string())
      return value.refuse("a text, or an array of {\"type\": \"text\", \"text\": TEXT}");
    return read_text(value, left_bytes, out);
  }
  for (const JsonReader& part : value.items(kMaxContentParts)) {
    const JsonReader type = part.at("type");
    if (type.json().text != "text") return type.refuse("\"text\": no other parts are taken");
    demand_known(part, {"type", "text"});
    read_text(part.at("text"), left_bytes, out);
    if (!part.ok()) return;
  }
}

}  // namespace

std::vector<ChatMessage> read_chat_messages(const JsonReader& array) {
  std::vector<ChatMessage> messages;
  const std::vector<JsonReader> items = array.items(kMaxChatMessages);
  if (items.empty()) array.fail("has no message");
  std::size_t left_bytes = kMaxChatBytes;
  for (const JsonReader& item : items) {
    ChatMessage& message = messages.emplace_back();
    item.read("role", message.role);
    demand_known(item, {"role", "content"});
    read_content(item.at("content"), left_bytes, message.content);
    if (!item.ok()) return {};
  }
  return messages;
}

Result<std::vector<ChatMessage>> parse_chat_messages(std::string_view json,
                                                     std::string_view source) {
  if (json.size() > kMaxChatJsonBytes) {
    return Status(StatusCode::kInvalidInput, "{}: has {} bytes, at most {} are taken", source,
                  json.size(), kMaxChatJsonBytes);
  }
  ASSIGN_OR_RETURN(const Json root, parse_json(json, source));
  Status status;
  std::vector<ChatMessage> messages = read_chat_messages(JsonReader(root, source, status));
  RETURN_IF_ERROR(status);
  return messages;
}

}  // namespace airlock
