#include "tee_runner/serve/serve_page.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <cstdint>

#include "base/check.h"
#include "tee_runner/serve/page_text.h"

namespace airlock {
namespace {

/// "'sha256-...'" of what lies in the page's one element of this name.
std::string source_of(std::string_view page, std::string_view element) {
  const std::string begin = fmt::format("<{}>", element);
  const std::size_t at = page.find(begin);
  const std::size_t end = page.find(fmt::format("</{}>", element));
  CHECK(at != std::string_view::npos && end != std::string_view::npos);
  const std::string_view inside = page.substr(at + begin.size(), end - at - begin.size());
  std::array<unsigned char, 32> digest;
  CHECK(EVP_Digest(inside.data(), inside.size(), digest.data(), nullptr, EVP_sha256(), nullptr) ==
        1);
  std::array<unsigned char, 48> text;
  const int bytes = EVP_EncodeBlock(text.data(), digest.data(), static_cast<int>(digest.size()));
  return fmt::format("'sha256-{}'",
                     std::string(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(bytes)));
}

}  // namespace

const ServePage& serve_page() {
  static const ServePage page{
      kPageText,
      fmt::format("Content-Security-Policy: default-src 'none'; script-src {}; style-src {}; "
                  "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                  "frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\n",
                  source_of(kPageText, "script"), source_of(kPageText, "style"))};
  return page;
}

}  // namespace airlock
