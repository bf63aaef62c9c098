#include "tee_runner/tokenizer/split_pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "runtime/json/reader.h"
#include "tee_runner/tokenizer/newer_characters.h"
#include "tee_runner/tokenizer/utf8.h"

namespace airlock {
namespace {

constexpr char32_t kLastCode = 0x10ffff;

// White_Space and the rest. PCRE2's own \s has U+180E too, Oniguruma's has not.
constexpr std::string_view kSpaces =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNotSpaces =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff})"
    R"(\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
constexpr std::array<std::string_view, 42> kProperties = {
    "L",  "Lu", "Ll", "Lt", "Lm",  "Lo",       "M",        "Mn",     "Mc",   "Me", "N",
    "Nd", "Nl", "No", "P",  "Pc",  "Pd",       "Ps",       "Pe",     "Pi",   "Pf", "Po",
    "S",  "Sm", "Sc", "Sk", "So",  "Z",        "Zs",       "Zl",     "Zp",   "C",  "Cc",
    "Cf", "Cn", "Co", "Cs", "Han", "Hiragana", "Katakana", "Hangul", "Latin"};

/// A sign or a class of signs, as PCRE2 reads it within [].
struct Item {
  std::string text;
  // Of a class there is none.
  std::optional<char32_t> code;
  // As a class of its own: between [^ and ].
  bool negated = false;
};

std::string hex(char32_t code) {
  return fmt::format("\\x{{{:x}}}", static_cast<std::uint32_t>(code));
}
Item sign(char32_t code) { return {.text = hex(code), .code = code}; }

/// Outside of a class Oniguruma takes the digits and fractions of Latin-1 for word characters, too.
std::string word(bool in_class) {
  return word_characters() + (in_class ? "" : R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})");
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> translate() {
    while (at_ < pattern_.size()) RETURN_IF_ERROR(next());
    return std::move(out_);
  }

 private:
  bool see(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!see(text)) return false;
    at_ += text.size();
    return true;
  }
  char32_t take_character() {
    const Character character = first_character(pattern_.substr(at_));
    at_ += character.bytes;
    return character.code;
  }
  Status refuse(std::size_t from) const {
    return {StatusCode::kInvalidInput, "'{}' at byte {} of the pattern is not supported",
            printable(pattern_.substr(from, std::max<std::size_t>(at_ - from, 1) + 7)), from};
  }

  Status next() {
    const std::size_t from = at_;
    if (take("(")) return open(from);
    if (take("[")) return char_class(from);
    if (see("\\A") || see("\\z")) {
      out_ += pattern_.substr(at_, 2);
      at_ += 2;
      return {};
    }
    if (see("\\")) return escape_outside();
    for (const std::string_view same : {")", "|", "^", "$", "."}) {
      if (!take(same)) continue;
      out_ += same;
      return same == ")" || same == "." ? quantifier() : Status();
    }
    if (see("*") || see("+") || see("?")) return refuse(from);
    out_ += hex(take_character());
    return quantifier();
  }

  Status open(std::size_t from) {
    if (!see("?")) {
      out_ += "(?:";
      return {};
    }
    for (const std::string_view group : {"?:", "?i:", "?=", "?!", "?<=", "?<!", "?>"}) {
      if (!take(group)) continue;
      out_ += '(';
      out_ += group;
      return {};
    }
    return refuse(from);
  }

  Status escape_outside() {
    ASSIGN_OR_RETURN(const Item item, escape());
    out_ += item.negated ? "[^" : "[";
    out_ += item.text + ']';
    return quantifier();
  }

  /// What stands at a backslash.
  Result<Item> escape() {
    const std::size_t from = at_++;
    if (at_ == pattern_.size()) return refuse(from);
    const char32_t what = take_character();
    switch (what) {
      case 's':
        return Item{.text = std::string(kSpaces), .code = {}};
      case 'S':
        return Item{.text = std::string(kNotSpaces), .code = {}};
      case 'd':
        return category("Nd", false);
      case 'D':
        return category("Nd", true);
      case 'w':
        return Item{.text = word(in_class_), .code = {}};
      case 'W':
        return Item{.text = word(in_class_), .code = {}, .negated = true};
      case 'p':
      case 'P':
        return property(from, what == 'P');
      case 'x':
      case 'u':
        return number(from, what == 'u');
      default:
        return control(from, what);
    }
  }

  Result<Item> control(std::size_t from, char32_t what) {
    constexpr std::string_view kNames = "tnvfrae";
    constexpr std::string_view kCodes = "\t\n\v\f\r\a\x1b";
    if (what < 0x80) {
      const std::size_t found = kNames.find(static_cast<char>(what));
      if (found != std::string_view::npos) return sign(static_cast<char32_t>(kCodes[found]));
      const bool is_word = (what >= '0' && what <= '9') || (what >= 'A' && what <= 'Z') ||
                           (what >= 'a' && what <= 'z');
      if (is_word) return refuse(from);
    }
    return sign(what);
  }

  /// Of what a category is not, PCRE2's own word stands within a class. Of a script, it alone:
  /// PCRE2's plain word for one means its extensions, too.
  Item category(std::string_view name, bool negated) const {
    const std::string_view script = name.size() > 2 ? "sc:" : "";
    if (negated && in_class_) return {.text = fmt::format("\\P{{{}{}}}", script, name), .code = {}};
    return {.text = fmt::format("\\p{{{}{}}}", script, name) + newer_characters(name),
            .code = {},
            .negated = negated};
  }

  Result<Item> property(std::size_t from, bool negated) {
    if (!take("{")) return refuse(from);
    if (take("^")) negated = !negated;
    const std::size_t end = pattern_.find('}', at_);
    const std::string_view name =
        pattern_.substr(at_, end == std::string_view::npos ? 0 : end - at_);
    if (std::ranges::find(kProperties, name) == kProperties.end()) return refuse(from);
    at_ = end + 1;
    return category(name, negated);
  }

  /// \x{H...}, \xHH of ASCII, \uHHHH.
  Result<Item> number(std::size_t from, bool is_u) {
    const bool braces = !is_u && take("{");
    const std::size_t end = braces ? pattern_.find('}', at_) : at_ + (is_u ? 4 : 2);
    if (end == std::string_view::npos || end > pattern_.size() || end == at_) return refuse(from);
    std::uint32_t code = 0;
    const auto [stop, error] =
        std::from_chars(pattern_.data() + at_, pattern_.data() + end, code, 16);
    if (error != std::errc() || stop != pattern_.data() + end || code > kLastCode ||
        (code >= 0xd800 && code < 0xe000) || (!braces && !is_u && code > 0x7f))
      return refuse(from);
    at_ = end + (braces ? 1 : 0);
    return sign(code);
  }

  Result<Item> class_item() {
    const std::size_t from = at_;
    if (see("[") || see("&&")) return refuse(from);  // a class within a class; an intersection
    if (!see("\\")) return sign(take_character());
    in_class_ = true;
    auto escaped = escape();
    in_class_ = false;
    ASSIGN_OR_RETURN(Item item, std::move(escaped));
    if (item.negated) return refuse(from);
    return item;
  }

  Status char_class(std::size_t from) {
    out_ += take("^") ? "[^" : "[";
    if (see("]")) return refuse(from);
    while (!take("]")) {
      const std::size_t begin = at_;
      if (at_ == pattern_.size()) return refuse(from);
      ASSIGN_OR_RETURN(const Item first, class_item());
      out_ += first.text;
      if (!see("-") || see("-]")) continue;
      if (at_ + 1 == pattern_.size() || !first.code) return refuse(begin);
      ++at_;
      ASSIGN_OR_RETURN(const Item last, class_item());
      if (!last.code || *last.code < *first.code) return refuse(begin);
      out_ += '-' + last.text;
    }
    out_ += ']';
    return quantifier();
  }

  Status quantifier() {
    const std::size_t from = at_;
    if (take("*") || take("+") || take("?")) {
      out_ += pattern_.substr(from, 1);
      if (see("?") || see("+")) out_ += pattern_.substr(at_++, 1);
    } else if (see("{")) {
      RETURN_IF_ERROR(interval(from));
    }
    return see("*") || see("+") || see("?") ? refuse(from) : Status();
  }

  /// {n}, {n,}, {n,m}, {,m}; a brace that begins none of these is a sign like others.
  Status interval(std::size_t from) {
    std::size_t at = at_ + 1;
    const auto digits = [&] {
      const std::size_t begin = at;
      while (at < pattern_.size() && pattern_[at] >= '0' && pattern_[at] <= '9') ++at;
      return pattern_.substr(begin, at - begin);
    };
    const std::string_view least = digits();
    const bool comma = at < pattern_.size() && pattern_[at] == ',';
    if (comma) ++at;
    const std::string_view most = comma ? digits() : std::string_view();
    if (at >= pattern_.size() || pattern_[at] != '}' || (least.empty() && most.empty())) return {};
    at_ = at + 1;
    if (least.size() > 4 || most.size() > 4) return refuse(from);
    out_ += fmt::format("{{{}{}{}}}", least.empty() ? "0" : least, comma ? "," : "", most);
    // A lazy one of a fixed number means something else to Oniguruma; + is another quantifier to
    // it.
    if (comma && take("?")) out_ += '?';
    return {};
  }

  const std::string_view pattern_;
  std::size_t at_ = 0;
  // Between [ and ].
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

std::string word_characters() {
  return R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})" + newer_characters("L") + newer_characters("M") +
         newer_characters("Nd");
}

Result<std::string> translate_split_pattern(std::string_view pattern) {
  return Translator(pattern).translate();
}

std::string literal_pattern(std::string_view text) {
  std::string pattern;
  while (!text.empty()) {
    const Character character = first_character(text);
    pattern += hex(character.code);
    text.remove_prefix(character.bytes);
  }
  return pattern;
}

}  // namespace airlock
