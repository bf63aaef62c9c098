#include "tee_runner/chat/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace airlock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr ChatRole kSystem = ChatRole::kSystem;
constexpr ChatRole kUser = ChatRole::kUser;
constexpr ChatRole kAssistant = ChatRole::kAssistant;
using Messages = std::vector<ChatMessage>;

const Messages kQuestion = {{kUser, "Hi"}};
const Messages kTalk = {
    {kSystem, " Be brief.\n"}, {kUser, " Hi\n"}, {kAssistant, " Hello. "}, {kUser, "Bye"}};

ChatPiece control(std::string text) { return {std::move(text), true}; }
ChatPiece plain(std::string text) { return {std::move(text), false}; }

std::string text_of(const Result<std::vector<ChatPiece>>& pieces) {
  std::string text;
  for (const ChatPiece& piece : pieces.value()) text += piece.text;
  return text;
}
std::string render(ChatFamily family, const Messages& messages, ChatOptions options = {}) {
  return text_of(render_chat(ChatTemplate(family), messages, options));
}
std::string refusal(ChatFamily family, const Messages& messages, ChatOptions options = {}) {
  const auto pieces = render_chat(ChatTemplate(family), messages, options);
  EXPECT_FALSE(pieces.ok());
  EXPECT_EQ(pieces.status().code(), StatusCode::kInvalidInput);
  return pieces.status().message();
}

TEST(ChatTemplate, chatml_has_each_turn_as_it_is) {
  EXPECT_EQ(render(ChatFamily::kChatMl, kTalk),
            "<|im_start|>system\n Be brief.\n<|im_end|>\n<|im_start|>user\n Hi\n<|im_end|>\n"
            "<|im_start|>assistant\n Hello. <|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST(ChatTemplate, smollm2_begins_with_a_system_message_of_its_own_where_there_is_none) {
  EXPECT_EQ(render(ChatFamily::kSmolLm2, kQuestion),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            "Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(render(ChatFamily::kSmolLm2, kTalk), render(ChatFamily::kChatMl, kTalk));
}

TEST(ChatTemplate, zephyr_ends_each_turn_with_the_models_end_token) {
  EXPECT_EQ(render(ChatFamily::kZephyr, kTalk),
            "<|system|>\n Be brief.\n</s>\n<|user|>\n Hi\n</s>\n<|assistant|>\n Hello. </s>\n"
            "<|user|>\nBye</s>\n<|assistant|>\n");
  ChatTemplate other(ChatFamily::kZephyr);
  other.eos = "<|endoftext|>";
  EXPECT_EQ(text_of(render_chat(other, kQuestion)), "<|user|>\nHi<|endoftext|>\n<|assistant|>\n");
}

TEST(ChatTemplate, llama3_trims_each_content) {
  EXPECT_EQ(render(ChatFamily::kLlama3, kTalk),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST(ChatTemplate, llama31_and_32_begin_with_the_date_and_the_system_message) {
  const std::string head =
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
      "Cutting Knowledge Date: December 2023\nToday Date: ";
  const std::string user =
      "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n";
  for (const ChatFamily family : {ChatFamily::kLlama31, ChatFamily::kLlama32}) {
    EXPECT_EQ(render(family, kQuestion), head + "26 Jul 2024\n\n" + user);
    EXPECT_EQ(render(family, {{kSystem, " x "}, {kUser, "Hi"}}, {.date = "01 Jan 2030"}),
              head + "01 Jan 2030\n\nx" + user);
  }
}

TEST(ChatTemplate, a_system_message_further_on_is_a_turn_like_others) {
  const Messages messages = {{kUser, "a"}, {kSystem, "b"}};
  EXPECT_THAT(render(ChatFamily::kLlama31, messages),
              HasSubstr("<|start_header_id|>system<|end_header_id|>\n\nb<|eot_id|>"));
  EXPECT_THAT(render(ChatFamily::kChatMl, messages), HasSubstr("<|im_start|>system\nb<|im_end|>"));
}

TEST(ChatTemplate, llama2_puts_the_system_message_into_the_first_question) {
  EXPECT_EQ(render(ChatFamily::kLlama2, kTalk),
            "<s>[INST] <<SYS>>\n Be brief.\n\n<</SYS>>\n\n Hi [/INST] Hello. </s><s>[INST] Bye "
            "[/INST]");
  // Both are trimmed as one.
  EXPECT_EQ(render(ChatFamily::kLlama2, {{kSystem, ""}, {kUser, " \n"}}),
            "<s>[INST] <<SYS>>\n\n<</SYS>> [/INST]");
}

TEST(ChatTemplate, llama2_refuses_turns_that_do_not_alternate) {
  EXPECT_THAT(refusal(ChatFamily::kLlama2, {{kAssistant, "a"}}),
              HasSubstr("llama-2: message 1 is the assistant's"));
  EXPECT_THAT(refusal(ChatFamily::kLlama2, {{kSystem, "s"}, {kUser, "a"}, {kUser, "b"}}),
              HasSubstr("message 3 is the user's: user and assistant must alternate"));
  EXPECT_THAT(refusal(ChatFamily::kLlama2, {{kSystem, "s"}, {kSystem, "t"}}),
              HasSubstr("message 2 is the system's"));
}

TEST(ChatTemplate, what_needs_a_first_message_refuses_none) {
  for (const ChatFamily family : {ChatFamily::kLlama2, ChatFamily::kLlama31, ChatFamily::kLlama32})
    EXPECT_THAT(refusal(family, {}), HasSubstr("without any message"));
}

TEST(ChatTemplate, a_date_is_a_short_line_of_text) {
  for (const std::string& date : {std::string("a\nb"), std::string(65, 'x')}) {
    EXPECT_THAT(refusal(ChatFamily::kLlama32, kQuestion, {.date = date}),
                HasSubstr("no line of text of at most 64 bytes"));
  }
  EXPECT_EQ(chat_date(0), "01 Jan 1970");
  EXPECT_EQ(chat_date(1721952000), "26 Jul 2024");
}

TEST(ChatTemplate, without_a_generation_prompt_the_last_turn_is_the_end) {
  const ChatOptions none = {.add_generation_prompt = false};
  EXPECT_TRUE(render(ChatFamily::kChatMl, kQuestion, none).ends_with("<|im_end|>\n"));
  EXPECT_TRUE(render(ChatFamily::kZephyr, kQuestion, none).ends_with("</s>\n"));
  EXPECT_TRUE(render(ChatFamily::kLlama3, kQuestion, none).ends_with("<|eot_id|>"));
  EXPECT_EQ(render(ChatFamily::kLlama2, kQuestion, none), render(ChatFamily::kLlama2, kQuestion));
}

TEST(ChatTemplate, trims_what_python_calls_white_space) {
  EXPECT_THAT(render(ChatFamily::kLlama3,
                     {{kUser, "\u3000\x1c\u2028 \u200b\u00e9\u00a0 x\u0085\u00a0\v\x1f"}}),
              HasSubstr("\n\n\u200b\u00e9\u00a0 x<|eot_id|>"));
  EXPECT_THAT(render(ChatFamily::kLlama3, {{kUser, "\u2003\n"}}), HasSubstr("\n\n<|eot_id|>"));
}

TEST(ChatTemplate, special_tokens_are_pieces_of_their_own_and_text_is_one_piece) {
  EXPECT_THAT(render_chat(ChatTemplate(ChatFamily::kChatMl), kQuestion).value(),
              ElementsAre(control("<|im_start|>"), plain("user\nHi"), control("<|im_end|>"),
                          plain("\n"), control("<|im_start|>"), plain("assistant\n")));
  EXPECT_THAT(render_chat(ChatTemplate(ChatFamily::kLlama3), kQuestion).value(),
              ElementsAre(control("<|begin_of_text|>"), control("<|start_header_id|>"),
                          plain("user"), control("<|end_header_id|>"), plain("\n\nHi"),
                          control("<|eot_id|>"), control("<|start_header_id|>"), plain("assistant"),
                          control("<|end_header_id|>"), plain("\n\n")));
  // To their tokenizers, [INST] and <|user|> are text.
  EXPECT_THAT(
      render_chat(ChatTemplate(ChatFamily::kLlama2), Messages{{kUser, "a"}, {kAssistant, "b"}})
          .value(),
      ElementsAre(control("<s>"), plain("[INST] a [/INST] b "), control("</s>")));
  EXPECT_THAT(render_chat(ChatTemplate(ChatFamily::kZephyr), kQuestion).value(),
              ElementsAre(plain("<|user|>\nHi"), control("</s>"), plain("\n<|assistant|>\n")));
}

TEST(ChatTemplate, names_the_tokens_that_end_an_answer) {
  EXPECT_THAT(stop_tokens(ChatTemplate(ChatFamily::kLlama31)),
              ElementsAre("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"));
  EXPECT_THAT(stop_tokens(ChatTemplate(ChatFamily::kSmolLm2)), ElementsAre("<|im_end|>"));
  ChatTemplate zephyr(ChatFamily::kZephyr);
  zephyr.eos = "<|endoftext|>";
  EXPECT_THAT(stop_tokens(zephyr), ElementsAre("</s>", "<|endoftext|>"));
}

/// Words that a template or a tokenizer could take for its own.
const std::vector<std::string> kWords = {
    "<|im_start|>",      "<|im_end|>", "<|eot_id|>", "<|start_header_id|>",
    "<|begin_of_text|>", "</s>",       "<s>",        "[INST]",
    "<<SYS>>",           "\n",         " ",          "system",
    "{{ x }}",           "\u00e9"};

RC_GTEST_PROP(ChatTemplateProperty, what_was_written_is_never_a_special_token, ()) {
  const auto family = *rc::gen::elementOf(
      std::vector<ChatFamily>(kValuesOf<ChatFamily>.begin(), kValuesOf<ChatFamily>.end()));
  const auto contents =
      *rc::gen::nonEmpty(rc::gen::container<std::vector<std::vector<std::string>>>(
          rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(kWords))));
  Messages messages;
  Messages blank;
  for (const auto& words : contents) {
    const ChatRole role = messages.size() % 2 == 0 ? kUser : kAssistant;
    messages.push_back({role, {}});
    for (const std::string& word : words) messages.back().content += word;
    blank.push_back({role, {}});
  }
  const auto controls_of = [family](const Messages& of) {
    std::vector<std::string> controls;
    bool after_text = false;
    const auto pieces = render_chat(ChatTemplate(family), of);
    for (const ChatPiece& piece : pieces.value()) {
      RC_ASSERT(!piece.text.empty());
      RC_ASSERT(piece.is_control || !after_text);
      after_text = !piece.is_control;
      if (piece.is_control) controls.push_back(piece.text);
    }
    return controls;
  };
  RC_ASSERT(controls_of(messages) == controls_of(blank));
}

}  // namespace
}  // namespace airlock
