
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>

#include "proto/limits.h"
#include "tee_runner/llama/driver.h"
#include "tee_runner/options.h"

namespace airlock {

namespace {

/// Bytes of a prompt file: kMaxTokens ids of up to 15 characters each.
constexpr std::size_t kMaxPromptBytes = static_cast<std::size_t>(limits::kMaxTokens) * 16;

Result<std::string> read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return Status(StatusCode::kInvalidInput, "cannot read {}: {}", path, std::strerror(errno));
  std::string text(kMaxPromptBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return Status(StatusCode::kInvalidInput, "cannot read {}", path);
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kMaxPromptBytes) {
    return Status(StatusCode::kInvalidInput, "{} is longer than {} bytes: no prompt is", path,
                  kMaxPromptBytes);
  }
  return text;
}

}  // namespace

Result<std::vector<std::int32_t>> parse_tokens(std::string_view text, std::string_view source) {
  constexpr std::string_view kSeparators = ", \t\r\n";
  std::vector<std::int32_t> tokens;
  for (std::size_t at = text.find_first_not_of(kSeparators); at != std::string_view::npos;) {
    const std::string_view word = text.substr(at, text.find_first_of(kSeparators, at) - at);
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (end != word.data() + word.size() || error == std::errc::invalid_argument) {
      return Status(StatusCode::kUsage,
                    "{}: '{}' at position {} is not a token id; ids are numbers, separated by "
                    "commas or white space",
                    source, word.substr(0, 40), tokens.size());
    }
    if (error == std::errc::result_out_of_range || value < 0 ||
        value > std::numeric_limits<std::int32_t>::max()) {
      return Status(StatusCode::kInvalidInput, "{}: token id {} at position {} is in no vocabulary",
                    source, word.substr(0, 40), tokens.size());
    }
    tokens.push_back(static_cast<std::int32_t>(value));
    at = text.find_first_not_of(kSeparators, at + word.size());
  }
  return tokens;
}

std::vector<std::int32_t> random_tokens(std::int64_t count, std::uint64_t seed,
                                        std::int64_t vocab) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  std::uint64_t state = seed;
  for (std::int32_t& token : tokens) {  // splitmix64
    state += 0x9e3779b97f4a7c15U;
    std::uint64_t mixed = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9U;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebU;
    token = static_cast<std::int32_t>((mixed ^ (mixed >> 31)) % static_cast<std::uint64_t>(vocab));
  }
  return tokens;
}

Result<std::vector<std::int32_t>> read_prompt(const PrefillOptions& options, std::int64_t vocab) {
  std::vector<std::int32_t> tokens;
  if (options.random_tokens) {
    tokens = random_tokens(*options.random_tokens, options.seed, vocab);
  } else if (options.tokens) {
    ASSIGN_OR_RETURN(tokens, parse_tokens(*options.tokens, "--tokens"));
  } else {
    ASSIGN_OR_RETURN(const std::string text, read_text(*options.tokens_file));
    auto parsed = parse_tokens(text, *options.tokens_file);
    if (!parsed.ok()) return Status(StatusCode::kInvalidInput, parsed.status().message());
    tokens = std::move(*parsed);
  }
  RETURN_IF_ERROR(check_tokens(tokens, vocab));
  return tokens;
}

}  // namespace airlock
