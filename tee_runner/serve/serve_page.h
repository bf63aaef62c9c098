#pragma once

#include <string>
#include <string_view>

namespace airlock {

/// The page for trying the model in a browser: one file, which loads nothing from elsewhere.
struct ServePage {
  std::string_view text;
  // Among them a Content-Security-Policy with the digests of the page's own script and style: no
  // other one runs. Each line with its end.
  std::string headers;
};
const ServePage& serve_page();

}  // namespace airlock
