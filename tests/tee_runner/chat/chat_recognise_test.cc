#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "runtime/json/writer.h"
#include "tee_runner/chat/recognise.h"
#include "tee_runner/chat/template_text.h"
#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

using ::testing::HasSubstr;

const std::string kChatMl =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
const std::string kZephyr =
    "{% for message in messages %}\n"
    "{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\\n' + message['content'] + eos_token }}\n"
    "{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n"
    "{{ '<|assistant|>' }}\n"
    "{% endif %}\n"
    "{% endfor %}\n";

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const std::size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return text.replace(at, what.size(), with);
}
std::string canonical(std::string_view text) { return canonical_template(text).value(); }

TEST(CanonicalTemplate, spelling_makes_no_difference) {
  const std::string text = canonical("a\n{% if x %}\nb{{ 'q\\n' }}{% endif %}");
  for (const char* same : {"a\r\n{% if x %}\r\nb{{ 'q\\n' }}{% endif %}\n",
                           "a\n   {%if   x\n%}\nb{{\"q\n\"}}{%+ endif %}",
                           "a\n{# no #}\n{% if x -%} \n\t b{{'q\\n'-}}\n {% endif %}",
                           "a\n  {% if x %}\nb{#- c -#}\n{{ 'q\\n' }}{% endif %}"}) {
    EXPECT_EQ(canonical(same), text) << same;
  }
}

TEST(CanonicalTemplate, what_is_rendered_makes_one) {
  const std::string text = canonical("{% if x %}a {{ 'q' }} b{% endif %}");
  for (const char* other :
       {"{% if x %}a {{- 'q' }} b{% endif %}", "{% if x %}a {{ 'q' -}} b{% endif %}",
        "{% if x %}a {{ ' q' }} b{% endif %}", "{% if x %}a {{ 'q' }} b {% endif %}",
        "{% if not x %}a {{ 'q' }} b{% endif %}", "{% if x %}a {{ q }} b{% endif %}",
        "{% if x %}a {{ 'q' }}  b{% endif %}", "{{ if x }}a {{ 'q' }} b{% endif %}"}) {
    EXPECT_NE(canonical(other), text) << other;
  }
}

TEST(CanonicalTemplate, white_space_is_cut_as_transformers_has_it_cut) {
  // The line of a block leaves nothing; the line of a variable leaves all that is around it.
  EXPECT_EQ(canonical("  {% if x %}\n  {{ y }}\n  {% endif %}\nz"),
            canonical("{% if x %}  {{ y }}\n{% endif %}z"));
  // Blanks between a text and a block stay.
  EXPECT_NE(canonical("a  {% if x %}{% endif %}"), canonical("a{% if x %}{% endif %}"));
  // So do those of a line that a tag's own end began.
  EXPECT_NE(canonical("{{ a }}  {% if x %}{% endif %}"), canonical("{{ a }}{% if x %}{% endif %}"));
}

TEST(CanonicalTemplate, two_pairs_of_texts_never_run_together) {
  EXPECT_NE(canonical("{{ 'a' }}{{ 'b' }}"), canonical("{{ 'a' 'b' }}"));
  EXPECT_NE(canonical("{{ a == b }}"), canonical("{{ a = = b }}"));
  EXPECT_NE(canonical("{{ 'n1:x' }}"), canonical("{{ x }}"));
}

TEST(CanonicalTemplate, only_the_text_of_an_exception_is_free) {
  EXPECT_EQ(canonical("{{ raise_exception('a') }}"), canonical("{{ raise_exception(\"bc\") }}"));
  EXPECT_NE(canonical("{{ raise_exception('a') }}"), canonical("{{ raise_exception(a) }}"));
  EXPECT_NE(canonical("{{ f('a') }}"), canonical("{{ f('b') }}"));
  EXPECT_NE(canonical("{{ raise_exception + ('a') }}"), canonical("{{ raise_exception + ('b') }}"));
}

TEST(CanonicalTemplate, refuses_what_it_does_not_know) {
  for (const char* text :
       {"{{ 'a", "{% if x", "{# x", "{{ 'a\\x41' }}", "{% raw %}{{ x }}{% endraw %}", "{{ ) }}",
        "{{ \xc3\xa9 }}", "{{ 1e5 }}", "{{", "{{ ( }}", "{{ 'a\\"}) {
    EXPECT_FALSE(canonical_template(text).ok()) << text;
  }
}

TEST(RecogniseChatTemplate, knows_a_template_however_it_is_laid_out) {
  EXPECT_EQ(recognise_chat_template(kChatMl).value(), ChatFamily::kChatMl);
  EXPECT_EQ(recognise_chat_template(kZephyr).value(), ChatFamily::kZephyr);
  EXPECT_EQ(recognise_chat_template("{% if not add_generation_prompt is defined %}"
                                    "{% set add_generation_prompt = false %}{% endif %}" +
                                    kChatMl)
                .value(),
            ChatFamily::kChatMl);
  EXPECT_EQ(recognise_chat_template(
                replaced(kChatMl, "{{ '<|im_start|>' +", "{# a turn #}{{'<|im_start|>'\n  +"))
                .value(),
            ChatFamily::kChatMl);
  EXPECT_EQ(
      recognise_chat_template(replaced(kChatMl, "%}{{",
                                       "%}{% if loop.first and messages[0]['role'] != 'system' "
                                       "%}{{ '<|im_start|>system\\nYou are a helpful AI "
                                       "assistant named SmolLM, trained by Hugging "
                                       "Face<|im_end|>\\n' }}{% endif %}{{"))
          .value(),
      ChatFamily::kSmolLm2);
}

TEST(RecogniseChatTemplate, refuses_one_that_renders_anything_else) {
  for (const auto& [what, with] :
       {std::pair("'\\n'", "' '"), std::pair("message['role']", "message['name']"),
        std::pair("'<|im_end|>'", "eos_token"),
        std::pair("message['content']", "message['content'] | trim"),
        std::pair("{% for", "x{% for"), std::pair("assistant\\n", "assistant"),
        std::pair("{% if add_generation_prompt %}", "{% if true %}")}) {
    const auto family = recognise_chat_template(replaced(kChatMl, what, with));
    ASSERT_FALSE(family.ok()) << with;
    EXPECT_EQ(family.status().code(), StatusCode::kInvalidInput);
    EXPECT_THAT(family.status().message(), HasSubstr("unknown chat template (digest "));
    EXPECT_THAT(family.status().message(),
                HasSubstr("llama-2, llama-3, llama-3.1, llama-3.2, chatml, zephyr, smollm2"));
  }
  EXPECT_FALSE(recognise_chat_template("").ok());
  EXPECT_FALSE(recognise_chat_template(std::string(kMaxTemplateBytes + 1, ' ')).ok());
}

class ModelFolder {
 public:
  void write(const std::string& name, const std::string& text) const {
    write_all(folder_.file(name), text);
  }
  Result<ChatTemplate> load(std::optional<ChatFamily> named = std::nullopt) const {
    return load_chat_template(folder_.path(), named);
  }

 private:
  TempDir folder_;
};

TEST(LoadChatTemplate, reads_template_and_tokens_of_a_tokenizers_config) {
  const ModelFolder model;
  model.write("tokenizer_config.json",
              JsonObject{{"chat_template", kZephyr},
                         {"bos_token", JsonObject{{"content", "<b>"}, {"special", true}}},
                         {"eos_token", "<e>"}}
                  .text());
  const auto chat = model.load();
  ASSERT_TRUE(chat.ok()) << chat.status().message();
  EXPECT_EQ(chat->family, ChatFamily::kZephyr);
  EXPECT_EQ(chat->bos, "<b>");
  EXPECT_EQ(chat->eos, "<e>");
}

TEST(LoadChatTemplate, a_file_of_its_own_comes_before_the_config) {
  const ModelFolder model;
  model.write("tokenizer_config.json", JsonObject{{"chat_template", "{{ x }}"}}.text());
  model.write("chat_template.jinja", kChatMl);
  EXPECT_EQ(model.load().value().family, ChatFamily::kChatMl);
}

TEST(LoadChatTemplate, of_several_templates_the_default_is_the_one) {
  const ModelFolder model;
  const JsonObject tool = {{"name", "tool_use"}, {"template", "{{ x }}"}};
  const JsonObject usual = {{"name", "default"}, {"template", kChatMl}};
  model.write("tokenizer_config.json",
              JsonObject{{"chat_template", std::vector{tool, usual}}}.text());
  EXPECT_EQ(model.load().value().family, ChatFamily::kChatMl);
  model.write("tokenizer_config.json", JsonObject{{"chat_template", std::vector{tool}}}.text());
  EXPECT_THAT(model.load().status().message(), HasSubstr("no template of the name 'default'"));
}

TEST(LoadChatTemplate, a_family_that_is_named_needs_no_template) {
  const ModelFolder model;
  EXPECT_EQ(model.load(ChatFamily::kLlama3).value(), ChatTemplate(ChatFamily::kLlama3));
  model.write("tokenizer_config.json",
              JsonObject{{"chat_template", "{{ x }}"}, {"bos_token", "<b>"}}.text());
  EXPECT_EQ(model.load(ChatFamily::kLlama3).value().bos, "<b>");
}

TEST(LoadChatTemplate, says_which_file_lacks_what) {
  const ModelFolder model;
  EXPECT_THAT(model.load().status().message(),
              HasSubstr("no chat template in tokenizer_config.json or chat_template.jinja"));
  model.write("tokenizer_config.json", "{");
  EXPECT_THAT(model.load().status().message(), HasSubstr("tokenizer_config.json: not JSON"));
  model.write("tokenizer_config.json", JsonObject{{"chat_template", kZephyr}}.text());
  EXPECT_THAT(model.load().status().message(), HasSubstr("names no eos_token"));
  model.write("tokenizer_config.json", JsonObject{{"chat_template", 7}}.text());
  EXPECT_THAT(model.load().status().message(), HasSubstr("'chat_template' is 7"));
  model.write("chat_template.jinja", "{{ x }}");
  EXPECT_THAT(model.load().status().message(), HasSubstr("chat_template.jinja: an unknown"));
}

}  // namespace
}  // namespace airlock
