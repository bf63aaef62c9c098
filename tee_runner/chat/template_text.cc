#include "tee_runner/chat/template_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>

namespace airlock {
namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}
bool all_spaces(std::string_view text) { return std::ranges::all_of(text, is_space); }

/// Each line end as \n, without the last.
std::string with_plain_line_ends(std::string_view text) {
  std::string plain;
  plain.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool is_pair = text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n';
    if (!is_pair) plain += text[i] == '\r' ? '\n' : text[i];
  }
  if (plain.ends_with('\n')) plain.pop_back();
  return plain;
}

class Lexer {
 public:
  explicit Lexer(std::string_view text) : rest_(text) {}

  /// False, with a reason, at the first thing that it does not take.
  bool run() {
    while (!rest_.empty()) {
      const std::size_t at = find_tag();
      if (at == std::string_view::npos) {
        add_data(rest_);
        break;
      }
      if (!read_tag(at)) return false;
    }
    flush_data();
    return true;
  }
  const char* reason() const { return reason_; }
  std::string take() { return std::move(tokens_); }

 private:
  bool refuse(const char* reason) {
    reason_ = reason;
    return false;
  }

  std::size_t find_tag() const {
    for (std::size_t at = rest_.find('{'); at != std::string_view::npos;
         at = rest_.find('{', at + 1)) {
      const char next = at + 1 < rest_.size() ? rest_[at + 1] : '\0';
      if (next == '%' || next == '{' || next == '#') return at;
    }
    return std::string_view::npos;
  }

  /// Kind, length and text: no two sequences of tokens give the same string.
  void add(char kind, std::string_view text) {
    fmt::format_to(std::back_inserter(tokens_), "{}{}:{}\n", kind, text.size(), text);
  }
  /// What is rendered as it stands. Two pieces with a comment between them are one.
  void add_data(std::string_view text) { data_ += text; }
  void flush_data() {
    if (!data_.empty()) add('d', data_);
    data_.clear();
  }

  /// A tag that begins at `at`, and the data before it.
  bool read_tag(std::size_t at) {
    std::string_view before = rest_.substr(0, at);
    const char opener = rest_[at + 1];
    rest_.remove_prefix(at + 2);
    const char sign = !rest_.empty() && (rest_[0] == '-' || rest_[0] == '+') ? rest_[0] : '\0';
    if (sign != '\0') rest_.remove_prefix(1);
    if (sign == '-') {
      while (!before.empty() && is_space(before.back())) before.remove_suffix(1);
    } else if (sign == '\0' && opener != '{') {
      // The indentation of a tag that begins its line.
      const std::size_t line = before.rfind('\n') + 1;  // 0 where there is none
      if ((line > 0 || at_line_begin_) && all_spaces(before.substr(line)))
        before = before.substr(0, line);
    }
    add_data(before);
    if (opener == '#') return skip_comment();
    flush_data();
    return read_expression(opener == '%' ? '%' : '}');
  }

  bool skip_comment() {
    const std::size_t end = rest_.find("#}");
    if (end == std::string_view::npos) return refuse("a comment that does not end");
    const char sign = end > 0 ? rest_[end - 1] : '\0';
    rest_.remove_prefix(end + 2);
    after_tag(sign, '#');
    return true;
  }

  /// What a tag takes from the data behind it.
  void after_tag(char sign, char closer) {
    at_line_begin_ = false;
    if (sign == '-') {
      while (!rest_.empty() && is_space(rest_[0])) {
        at_line_begin_ = rest_[0] == '\n';
        rest_.remove_prefix(1);
      }
    } else if (sign != '+' && closer != '}' && rest_.starts_with('\n')) {
      at_line_begin_ = true;
      rest_.remove_prefix(1);
    }
  }

  /// The tokens up to the end of the tag, "%}" or "}}".
  bool read_expression(char closer) {
    add('{', std::string_view(&closer, 1));
    first_ = true;
    raising_ = 0;
    for (std::size_t depth = 0;;) {
      while (!rest_.empty() && is_space(rest_[0])) rest_.remove_prefix(1);
      if (rest_.empty()) return refuse("a tag that does not end");
      if (depth == 0 && read_end(closer)) return true;
      if (!read_token(depth)) return false;
      first_ = false;
    }
  }

  bool read_end(char closer) {
    const char sign = rest_[0] == '-' || (rest_[0] == '+' && closer == '%') ? rest_[0] : '\0';
    const std::string_view end = rest_.substr(sign != '\0' ? 1 : 0);
    if (end.size() < 2 || end[0] != closer || end[1] != '}') return false;
    rest_ = end.substr(2);
    add('}', {});
    after_tag(sign, closer);
    return true;
  }

  bool read_token(std::size_t& depth) {
    const char c = rest_[0];
    if (c == '\'' || c == '"') return read_string(c);
    if (is_name(c)) {
      std::size_t bytes = 1;
      while (bytes < rest_.size() && is_name(rest_[bytes])) ++bytes;
      const std::string_view word = rest_.substr(0, bytes);
      if (first_ && word == "raw") return refuse("a raw block");
      if (is_digit(c) && !std::ranges::all_of(word, is_digit)) return refuse("an unusual number");
      add('n', word);
      raising_ = word == "raise_exception" ? 1 : 0;
      rest_.remove_prefix(bytes);
      return true;
    }
    return read_operator(depth);
  }

  bool read_operator(std::size_t& depth) {
    constexpr std::array<std::string_view, 6> kPairs = {"==", "!=", ">=", "<=", "//", "**"};
    constexpr std::string_view kSingles = "+-/*%~[](){}=<>.:|,;";
    const char c = rest_[0];
    const bool is_pair = std::ranges::find(kPairs, rest_.substr(0, 2)) != kPairs.end();
    if (!is_pair && kSingles.find(c) == std::string_view::npos)
      return refuse("a character that is none of Jinja's");
    if (c == '(' || c == '[' || c == '{') ++depth;
    if (c == ')' || c == ']' || c == '}') {
      if (depth == 0) return refuse("a bracket that was not opened");
      --depth;
    }
    const std::string_view token = rest_.substr(0, is_pair ? 2 : 1);
    add('o', token);
    raising_ = raising_ == 1 && c == '(' ? 2 : 0;
    rest_.remove_prefix(token.size());
    return true;
  }

  bool read_string(char quote) {
    std::string value;
    std::size_t at = 1;
    for (; at < rest_.size() && rest_[at] != quote; ++at) {
      if (rest_[at] != '\\') {
        value += rest_[at];
        continue;
      }
      constexpr std::string_view kEscaped = "\\'\"nrt";
      constexpr std::string_view kMeant = "\\'\"\n\r\t";
      const std::size_t which =
          ++at < rest_.size() ? kEscaped.find(rest_[at]) : std::string_view::npos;
      if (which == std::string_view::npos) return refuse("an unusual escape in a string");
      value += kMeant[which];
    }
    if (at == rest_.size()) return refuse("a string that does not end");
    // What is said where a conversation is refused is no part of what is rendered.
    add('s', raising_ == 2 ? std::string_view() : value);
    raising_ = 0;
    rest_.remove_prefix(at + 1);
    return true;
  }

  std::string_view rest_;
  std::string tokens_;
  std::string data_;
  bool at_line_begin_ = true;
  // Of the tag that is read: nothing was yet.
  bool first_ = true;
  // raise_exception was the last token (1), or that and a bracket (2).
  int raising_ = 0;
  const char* reason_ = "";
};

}  // namespace

Result<std::string> canonical_template(std::string_view text) {
  const std::string plain = with_plain_line_ends(text);
  Lexer lexer(plain);
  if (!lexer.run()) return Status(StatusCode::kInvalidInput, "{}", lexer.reason());
  return lexer.take();
}

}  // namespace airlock
