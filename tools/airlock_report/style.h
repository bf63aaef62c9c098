#pragma once

#include <string_view>

namespace airlock::report {

/// The page's style sheet: light, dark, narrow and printed. Colours are Okabe and Ito's, lighter
/// where the ground is dark.
std::string_view style_sheet();

}  // namespace airlock::report
