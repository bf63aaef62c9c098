// Published templates, and conversations as transformers renders them, from a folder beside this
// tree.
#include <gtest/gtest.h>

#include <string>

#include "base/readable_file.h"
#include "runtime/json/reader.h"
#include "tee_runner/chat/chat_template.h"
#include "tee_runner/chat/messages.h"
#include "tee_runner/chat/recognise.h"

namespace airlock {
namespace {

constexpr std::size_t kMostCases = 10000;
constexpr std::uint64_t kMostBytes = 16 << 20;

class ChatCases : public ::testing::Test {
 protected:
  /// Reads a file, or skips the test.
  void open(const std::string& name) {
    const auto text = read_text_file(std::string(AIRLOCK_CHAT_DATA "/") + name, kMostBytes);
    if (!text.ok()) GTEST_SKIP() << "not beside this tree: " << text.status().message();
    json_ = parse_json(*text, name).value();
  }
  JsonReader root() { return {json_, "cases", status_}; }

  Json json_;
  Status status_;
};

TEST_F(ChatCases, each_published_template_is_recognised) {
  open("templates.json");
  if (IsSkipped()) return;
  for (const auto& [name, text] : root().members(kMostCases)) {
    const auto family = recognise_chat_template(text.json().text);
    ASSERT_TRUE(family.ok()) << name << ": " << family.status().message();
    EXPECT_EQ(name_of(*family), name);
  }
  EXPECT_TRUE(status_.ok());
}

TEST_F(ChatCases, each_conversation_is_rendered_or_refused_as_there) {
  open("cases.json");
  if (IsSkipped()) return;
  for (const JsonReader& item : root().items(kMostCases)) {
    ChatFamily family = ChatFamily::kChatMl;
    ChatOptions options;
    item.read("template", family);
    item.read("add_generation_prompt", options.add_generation_prompt);
    const auto messages = read_chat_messages(item.at("messages"));
    ASSERT_TRUE(status_.ok()) << status_.message();
    const auto pieces = render_chat(ChatTemplate(family), messages, options);
    if (item.has("error")) {
      EXPECT_FALSE(pieces.ok());
      continue;
    }
    ASSERT_TRUE(pieces.ok()) << pieces.status().message();
    std::string text;
    for (const ChatPiece& piece : *pieces) text += piece.text;
    EXPECT_EQ(text, item.at("text").json().text);
  }
}

}  // namespace
}  // namespace airlock
