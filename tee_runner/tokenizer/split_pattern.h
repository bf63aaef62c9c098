#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace airlock {

inline constexpr std::size_t kMaxPatternBytes = 8192;

/// What a split rule of tokenizer.json, written for Oniguruma, is for PCRE2 (with UTF, UCP and
/// MULTILINE), to the letter: the two give some signs other meanings. Known are literals, classes,
/// \s \d \w \p{...} and their opposites, groups that capture nothing, (?i:...), looking around,
/// alternatives and quantifiers; kInvalidInput names anything else.
Result<std::string> translate_split_pattern(std::string_view pattern);
/// The pattern that matches `text` and nothing else.
std::string literal_pattern(std::string_view text);
/// What words consist of, as ranges within [].
std::string word_characters();

}  // namespace airlock
