#include "tee_runner/chat/recognise.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <system_error>

#include "base/readable_file.h"
#include "runtime/json/reader.h"
#include "runtime/model/digest.h"
#include "runtime/model/model_files.h"
#include "tee_runner/chat/template_text.h"

namespace airlock {
namespace {

constexpr const char* kTokenizerConfigName = "tokenizer_config.json";
constexpr const char* kTemplateName = "chat_template.jinja";
// With some hundreds of added tokens, as Llama 3's has.
constexpr std::uint64_t kMaxTokenizerConfigBytes = 4 << 20;
constexpr std::size_t kMaxTemplates = 16;
constexpr std::int64_t kMaxTokenBytes = 256;

struct KnownTemplate {
  std::string_view digest;
  ChatFamily family;
};

/// SHA-256 of canonical_template() of published templates. Each was compared with what its family
/// renders here, on conversations of every kind (adr 20).
constexpr KnownTemplate kKnown[] = {
    {"d77ca6a4450b678265d7500842a56efd21c5a77272f72aa1253e7d9f8f430702", ChatFamily::kLlama2},
    {"3a10b8d2bc965d4180f0474cb74621a07af4d6eeade40241fdbbc51afffcb5a5", ChatFamily::kLlama3},
    {"848a43c30af53913c66e0f5acc8b39c77c5e6d37a569458c2a9139572e99f349", ChatFamily::kLlama31},
    {"37cd1285314f66c50e85ac97a4a19d4edf56a822a0c19afb0f0d27c99d771d1c", ChatFamily::kLlama32},
    {"06b9b533427c1f31c2c4d304aa491cb49b7157c35b42f232fae24d966b7df735", ChatFamily::kChatMl},
    // The same behind a default for add_generation_prompt.
    {"e62ce601d07766adf16333e9d3c89828084a58d2ea81481bfdcd6a5f693d6734", ChatFamily::kChatMl},
    {"1f5e8df687a8ebb941bb674c59c88132537cace7c5c99cfe82295d1cab200365", ChatFamily::kZephyr},
    {"c248c9b3631afa2e6b78973442338f3118501228544d6b9bf8e8049f51a24e13", ChatFamily::kSmolLm2},
};

/// The tokens that stand in what the family renders.
struct Uses {
  bool bos = false;
  bool eos = false;
};

constexpr Uses uses_of(ChatFamily family) {
  switch (family) {
    case ChatFamily::kLlama2:
      return {.bos = true, .eos = true};
    case ChatFamily::kLlama3:
    case ChatFamily::kLlama31:
    case ChatFamily::kLlama32:
      return {.bos = true};
    case ChatFamily::kZephyr:
      return {.eos = true};
    case ChatFamily::kChatMl:
    case ChatFamily::kSmolLm2:
      break;
  }
  return {};
}

/// A text, or an object with the text in `content`. Whether it was there.
bool read_token(const JsonReader& config, std::string_view key, std::string& out) {
  if (!config.has(key)) return false;
  const JsonReader value = config.at(key);
  value.json().is_object() ? value.read("content", out, kMaxTokenBytes)
                           : value.get(out, kMaxTokenBytes);
  return true;
}

/// A text, or several with names, of which "default" is the one.
std::optional<std::string> read_template(const JsonReader& config) {
  if (!config.has("chat_template")) return std::nullopt;
  const JsonReader value = config.at("chat_template");
  constexpr auto kMost = static_cast<std::int64_t>(kMaxTemplateBytes);
  std::string text;
  if (value.json().kind != Json::Kind::kArray) {
    value.get(text, kMost);
    return text;
  }
  for (const JsonReader& item : value.items(kMaxTemplates)) {
    std::string name;
    item.read("name", name, kMaxTokenBytes);
    if (name != "default") continue;
    item.read("template", text, kMost);
    return text;
  }
  value.fail("has no template of the name 'default'");
  return std::nullopt;
}

Result<std::optional<std::string>> read_if_there(const std::filesystem::path& path,
                                                 std::uint64_t limit_bytes) {
  std::error_code error;
  // A link to a file that is gone is there: reading it says what is wrong.
  if (!std::filesystem::exists(std::filesystem::symlink_status(path, error)))
    return std::optional<std::string>();
  RETURN_IF_ERROR(check_model_file(path));
  ASSIGN_OR_RETURN(std::string text, read_text_file(path, limit_bytes));
  return std::optional(std::move(text));
}

}  // namespace

Result<ChatFamily> recognise_chat_template(std::string_view text) {
  if (text.size() > kMaxTemplateBytes) {
    return Status(StatusCode::kInvalidInput, "a chat template of {} bytes, at most {} are taken",
                  text.size(), kMaxTemplateBytes);
  }
  const auto canonical = canonical_template(text);
  std::string why;
  if (canonical.ok()) {
    const std::string digest = sha256_of(std::as_bytes(std::span(*canonical)));
    const auto known = std::ranges::find(kKnown, digest, &KnownTemplate::digest);
    if (known != std::end(kKnown)) return known->family;
    why = "digest " + digest;
  } else {
    why = canonical.status().message();
  }
  return Status(StatusCode::kInvalidInput,
                "an unknown chat template ({}); known are those of: {}. --chat-template NAME takes "
                "one of these instead, for whoever knows that the model was taught it",
                why, names_of<ChatFamily>());
}

Result<ChatTemplate> read_chat_template(const std::optional<std::string>& tokenizer_config,
                                        const std::optional<std::string>& jinja,
                                        std::optional<ChatFamily> named, std::string_view folder) {
  const std::string config_path = fmt::format("{}/{}", folder, kTokenizerConfigName);
  Json json;
  json.kind = Json::Kind::kObject;
  if (tokenizer_config) {
    ASSIGN_OR_RETURN(json, parse_json(*tokenizer_config, config_path));
  }
  Status status;
  const JsonReader config(json, config_path, status);
  std::string template_path = config_path;
  const bool is_named = named.has_value();
  if (!is_named) {
    std::optional<std::string> text = jinja;
    if (text) {
      template_path = fmt::format("{}/{}", folder, kTemplateName);
    } else {
      text = read_template(config);
    }
    RETURN_IF_ERROR(status);
    if (!text) {
      return Status(StatusCode::kInvalidInput,
                    "{}: no chat template in {} or {}: the model was not taught conversations, or "
                    "--chat-template NAME says how: {}",
                    folder, kTokenizerConfigName, kTemplateName, names_of<ChatFamily>());
    }
    const auto family = recognise_chat_template(*text);
    if (!family.ok()) return family.status().with_context(template_path);
    named = *family;
  }
  ChatTemplate chat(*named);
  const bool has_bos = read_token(config, "bos_token", chat.bos);
  const bool has_eos = read_token(config, "eos_token", chat.eos);
  RETURN_IF_ERROR(status);
  // A family that was named has tokens of its own; one that was read writes the model's.
  const Uses uses = uses_of(chat.family);
  const bool lacks_bos = uses.bos && !has_bos;
  if (!is_named && (lacks_bos || (uses.eos && !has_eos))) {
    return Status(StatusCode::kInvalidInput,
                  "{}: names no {}, which its chat template writes; --chat-template {} takes the "
                  "family's own",
                  config_path, lacks_bos ? "bos_token" : "eos_token", name_of(chat.family));
  }
  return chat;
}

Result<ChatTemplate> load_chat_template(const std::string& folder,
                                        std::optional<ChatFamily> named) {
  ASSIGN_OR_RETURN(const std::string found, find_model_folder(folder));
  const std::filesystem::path path(found);
  ASSIGN_OR_RETURN(const auto config,
                   read_if_there(path / kTokenizerConfigName, kMaxTokenizerConfigBytes));
  std::optional<std::string> jinja;
  if (!named) {
    ASSIGN_OR_RETURN(jinja, read_if_there(path / kTemplateName, kMaxTemplateBytes));
  }
  return read_chat_template(config, jinja, named, found);
}

}  // namespace airlock
