#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "tee_runner/chat/chat_template.h"

namespace airlock {

inline constexpr std::size_t kMaxTemplateBytes = std::size_t{256} << 10;

/// The family whose template `text` is: the same program, token by token (canonical_template()).
/// kInvalidInput for any other, with the digest that it has and the names of the families.
Result<ChatFamily> recognise_chat_template(std::string_view text);

/// The template of the model in `folder` (as --model names it): the family that was named, else the
/// one of chat_template.jinja or, where that is not there, of tokenizer_config.json; with the
/// begin and end tokens that tokenizer_config.json has. kInvalidInput, naming file and families,
/// where there is no template, or an unknown one, or one that writes a token that no file names.
Result<ChatTemplate> load_chat_template(const std::string& folder, std::optional<ChatFamily> named);

/// The same from the texts of the two files; nullopt: the file is not there.
Result<ChatTemplate> read_chat_template(const std::optional<std::string>& tokenizer_config,
                                        const std::optional<std::string>& jinja,
                                        std::optional<ChatFamily> named, std::string_view folder);

}  // namespace airlock
