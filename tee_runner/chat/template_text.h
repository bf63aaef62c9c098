#pragma once

#include <string>
#include <string_view>

#include "base/status.h"

namespace airlock {

/// The tokens of a Jinja template, as its lexer gives them to its parser with the settings that
/// transformers has (trim_blocks, lstrip_blocks), written so that two texts give the same string
/// exactly where they are the same program: line ends, white space inside of tags, comments, the
/// spelling of strings, and white space around tags that is cut anyway make no difference; what is
/// rendered, each name and each operator does. The text of raise_exception('...') makes none.
/// Linear in the text. kInvalidInput for what is no template, or is beyond what known ones use
/// (raw blocks, escapes other than of quotes, backslashes and \n, \r, \t).
Result<std::string> canonical_template(std::string_view text);

}  // namespace airlock
