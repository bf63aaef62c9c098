#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace airlock {

/// What lies beside a tokenizer.json, in tokenizer_config.json and generation_config.json; each of
/// them may be missing, and each member.
struct TokenizerConfig {
  // Texts of tokens.
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  // Of generation_config.json.
  std::optional<std::int32_t> bos_id;
  std::vector<std::int32_t> eos_ids;

  /// `folder` ends with a slash or not. kInvalidInput, naming the file, for one that is wrong.
  static Result<TokenizerConfig> read(const std::string& folder);
};

}  // namespace airlock
