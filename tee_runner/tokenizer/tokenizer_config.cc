#include "tee_runner/tokenizer/tokenizer_config.h"

#include <sys/stat.h>

#include "base/readable_file.h"
#include "proto/limits.h"
#include "runtime/json/reader.h"
#include "runtime/model/model_files.h"
#include "tee_runner/tokenizer/vocabulary.h"

namespace airlock {
namespace {

constexpr std::uint64_t kMaxConfigBytes = 16 << 20;
constexpr std::size_t kMaxEosIds = 64;

/// nullopt where there is none.
Result<std::optional<Json>> read_json(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return std::optional<Json>();
  RETURN_IF_ERROR(check_model_file(path));
  ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxConfigBytes));
  ASSIGN_OR_RETURN(Json json, parse_json(text, path));
  return std::optional(std::move(json));
}

/// "<s>", or {"content":"<s>",...}.
void read_token(const JsonReader& root, std::string_view key, std::optional<std::string>& out) {
  if (!root.has(key)) return;
  const JsonReader token = root.at(key);
  std::string text;
  if (token.json().is_object()) {
    token.read("content", text, kMaxTokenBytes);
  } else {
    token.get(text, kMaxTokenBytes);
  }
  if (token.ok()) out = std::move(text);
}

}  // namespace

Result<TokenizerConfig> TokenizerConfig::read(const std::string& folder) {
  constexpr JsonRange kId{0, limits::kMaxVocab - 1};
  TokenizerConfig config;
  Status status;
  const std::string path = folder + "/tokenizer_config.json";
  ASSIGN_OR_RETURN(const std::optional<Json> tokenizer, read_json(path));
  if (tokenizer) {
    const JsonReader root(*tokenizer, path, status);
    read_token(root, "bos_token", config.bos_token);
    read_token(root, "eos_token", config.eos_token);
    root.maybe("add_bos_token", config.add_bos_token);
    root.maybe("add_eos_token", config.add_eos_token);
  }
  RETURN_IF_ERROR(status);
  const std::string generation_path = folder + "/generation_config.json";
  ASSIGN_OR_RETURN(const std::optional<Json> generation, read_json(generation_path));
  if (generation) {
    const JsonReader root(*generation, generation_path, status);
    root.maybe("bos_token_id", config.bos_id, kId);
    if (root.has("eos_token_id")) {
      const JsonReader eos = root.at("eos_token_id");
      if (eos.json().kind == Json::Kind::kArray) {
        for (const JsonReader& item : eos.items(kMaxEosIds))
          item.get(config.eos_ids.emplace_back(), kId);
      } else {
        eos.get(config.eos_ids.emplace_back(), kId);
      }
    }
  }
  RETURN_IF_ERROR(status);
  return config;
}

}  // namespace airlock
