#include "base/check.h"
#include "runtime/json/writer.h"
#include "tee_runner/chat/recognise.h"
#include "tee_runner/chat/template_text.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

const std::string kChatMl =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}";

std::vector<Bytes> seeds() {
  return bytes_of(
      {kChatMl, JsonObject{{"chat_template", kChatMl}, {"eos_token", "</s>"}}.text(),
       "a\n  {#- b -#}\n{%- if x|trim == \"y\" and z[1:] is not none -%} c {% endif %}\r\n"
       "{{ raise_exception('d') }}"});
}

/// Both files that may hold a template, with this text in them.
void load(std::string_view text) {
  for (const bool is_jinja : {false, true}) {
    const std::optional<std::string> file(text);
    const auto chat = is_jinja ? read_chat_template({}, file, {}, "fuzz")
                               : read_chat_template(file, {}, {}, "fuzz");
    if (chat.ok()) continue;
    CHECK(chat.status().code() == StatusCode::kInvalidInput);
    check_refusal(chat.status());
  }
}

bool run(std::span<const std::byte> input) {
  const std::string text(text_of(input));
  load(text);
  const auto canonical = canonical_template(text);
  if (!canonical.ok()) {
    CHECK(canonical.status().code() == StatusCode::kInvalidInput);
    check_refusal(canonical.status());
    return false;
  }
  // How lines end is nothing that a template could say.
  std::string dos;
  for (const char c : text) {
    if (c == '\r') return true;
    if (c == '\n') dos += '\r';
    dos += c;
  }
  const auto same = canonical_template(dos);
  CHECK(same.ok() && *same == *canonical);
  return true;
}

}  // namespace

constinit const Target kChatTemplate = {"chat_template", seeds, run};

}  // namespace airlock::fuzz
