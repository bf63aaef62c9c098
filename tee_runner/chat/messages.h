#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/json/reader.h"
#include "tee_runner/chat/chat_template.h"

namespace airlock {

inline constexpr std::size_t kMaxChatMessages = 4096;
inline constexpr std::size_t kMaxContentParts = 256;
// Of all contents together; a JSON text may have six times as many, with each character escaped.
inline constexpr std::size_t kMaxChatBytes = std::size_t{2} << 20;
inline constexpr std::size_t kMaxChatJsonBytes = 6 * kMaxChatBytes + (std::size_t{1} << 20);

/// An array of {"role": "system" | "user" | "assistant", "content": TEXT}, as OpenAI's endpoint has
/// it; TEXT may be an array of {"type": "text", "text": TEXT}, whose texts are joined. Anything
/// else is refused by name: another role, an unknown member, an image, no message at all, more than
/// the limits above. What is refused goes to the reader's status.
std::vector<ChatMessage> read_chat_messages(const JsonReader& array);

/// The same of a whole text. `source` names it in messages.
Result<std::vector<ChatMessage>> parse_chat_messages(std::string_view json,
                                                     std::string_view source);

}  // namespace airlock
