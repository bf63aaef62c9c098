#pragma once

#include <string>
#include <vector>

#include "tools/airlock_report/input.h"

namespace airlock::report {

struct PageOrigin {
  std::string build;    // the program that made the page
  std::string made_at;  // UTC
};

/// The whole page: HTML with inline CSS and SVG, without scripts, that loads nothing. Every text
/// of an input is escaped.
std::string render_page(const std::vector<Input>& inputs, const PageOrigin& origin);

}  // namespace airlock::report
