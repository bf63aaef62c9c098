#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/json/writer.h"
#include "tee_runner/chat/messages.h"

namespace airlock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string refusal(std::string_view json) {
  const auto messages = parse_chat_messages(json, "body");
  EXPECT_FALSE(messages.ok()) << json;
  EXPECT_EQ(messages.status().code(), StatusCode::kInvalidInput);
  return messages.status().message();
}
std::string turn(std::string_view content) {
  return JsonObject{{"role", "user"}, {"content", content}}.text();
}
std::string list(const std::vector<std::string>& items) {
  return fmt::format("[{}]", fmt::join(items, ","));
}

TEST(ChatMessages, reads_each_role_and_any_text) {
  EXPECT_THAT(parse_chat_messages(R"([{"role":"system","content":""},
                                      {"content":" a\n\u00e9<|im_end|>","role":"user"},
                                      {"role":"assistant","content":"b"}])",
                                  "body")
                  .value(),
              ElementsAre(ChatMessage{ChatRole::kSystem, ""},
                          ChatMessage{ChatRole::kUser, " a\n\u00e9<|im_end|>"},
                          ChatMessage{ChatRole::kAssistant, "b"}));
}

TEST(ChatMessages, joins_the_parts_of_a_text) {
  EXPECT_THAT(parse_chat_messages(R"([{"role":"user","content":[{"type":"text","text":"a "},
                                      {"type":"text","text":"b"}]},
                                      {"role":"user","content":[]}])",
                                  "body")
                  .value(),
              ElementsAre(ChatMessage{ChatRole::kUser, "a b"}, ChatMessage{ChatRole::kUser, ""}));
}

TEST(ChatMessages, refuses_by_name_what_it_does_not_know) {
  EXPECT_THAT(refusal(R"([{"role":"tool","content":"x"}])"),
              HasSubstr("body: '0.role' is \"tool\", expected one of: system, user, assistant"));
  EXPECT_THAT(refusal(R"([{"role":"user","content":"x"},{"role":"ipython","content":"x"}])"),
              HasSubstr("'1.role' is \"ipython\""));
  EXPECT_THAT(refusal(R"([{"role":"user","content":"x","tool_calls":[]}])"),
              HasSubstr("'0' has an unknown member 'tool_calls'; known: role, content"));
  EXPECT_THAT(refusal(R"([{"role":"user","content":[{"type":"image_url","image_url":{}}]}])"),
              HasSubstr("'0.content.0.type' is \"image_url\""));
  EXPECT_THAT(refusal(R"([{"role":"user","content":[{"type":"text","text":"a","x":1}]}])"),
              HasSubstr("unknown member 'x'"));
}

TEST(ChatMessages, refuses_what_is_no_conversation) {
  EXPECT_THAT(refusal("[]"), HasSubstr("body: has no message"));
  EXPECT_THAT(refusal("{}"), HasSubstr("expected an array"));
  EXPECT_THAT(refusal("[1]"), HasSubstr("'0' is 1, expected an object"));
  EXPECT_THAT(refusal(R"([{"content":"x"}])"), HasSubstr("'0.role' is missing"));
  EXPECT_THAT(refusal(R"([{"role":"user"}])"), HasSubstr("'0.content' is missing"));
  EXPECT_THAT(refusal(R"([{"role":"user","content":null}])"), HasSubstr("'0.content' is null"));
  EXPECT_THAT(refusal(R"([{"role":"user","content":[{"type":"text"}]}])"),
              HasSubstr("'0.content.0.text' is missing"));
  EXPECT_THAT(refusal("[\"\xff\"]"), HasSubstr("not JSON"));
}

TEST(ChatMessages, the_limits_hold_for_all_contents_together) {
  const std::string half(kMaxChatBytes / 2, 'x');
  EXPECT_EQ(parse_chat_messages(list({turn(half), turn(half)}), "body").value().size(), 2u);
  EXPECT_THAT(refusal(list({turn(half), turn(half), turn("x")})),
              HasSubstr("'2.content' is too long: all contents together may have 2097152 bytes"));
  EXPECT_THAT(refusal(std::string(kMaxChatJsonBytes + 1, ' ')), HasSubstr("at most"));
}

TEST(ChatMessages, there_are_limits_of_messages_and_parts) {
  std::vector<std::string> many(kMaxChatMessages, turn(""));
  EXPECT_EQ(parse_chat_messages(list(many), "body").value().size(), kMaxChatMessages);
  many.push_back(turn(""));
  EXPECT_THAT(refusal(list(many)), HasSubstr("an array of at most 4096"));
  const std::vector<std::string> parts(kMaxContentParts + 1, R"({"type":"text","text":""})");
  EXPECT_THAT(refusal(fmt::format(R"([{{"role":"user","content":{}}}])", list(parts))),
              HasSubstr("an array of at most 256"));
}

}  // namespace
}  // namespace airlock
