#include "tee_runner/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "tee_runner/tokenizer/byte_alphabet.h"
#include "tee_runner/tokenizer/file_parts.h"
#include "tee_runner/tokenizer/newer_characters.h"
#include "tee_runner/tokenizer/split_pattern.h"

namespace airlock {
namespace {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

void add_range(std::vector<TextRange>& ranges, TextRange range) {
  if (range.begin < range.end) ranges.push_back(range);
}

}  // namespace

PreTokenizer PreTokenizer::read(const JsonReader& root) {
  PreTokenizer made;
  for_each_part_of(root, "pre_tokenizer", "pretokenizers",
                   [&](const JsonReader& part) { made.read_part(part); });
  return made;
}

void PreTokenizer::read_part(const JsonReader& part) {
  demand_type(part, {"ByteLevel", "Split", "Digits", "Metaspace", "Sequence"});
  if (!part.ok()) return;
  const std::string& type = part.at("type").json().text;
  if (type == "ByteLevel") return read_byte_level(part);
  if (type == "Split") return read_split(part);
  if (type == "Metaspace") return read_metaspace(part);
  demand_keys(part, {"type", "individual_digits"});
  bool individual = false;
  part.maybe("individual_digits", individual);
  // The last two came with Unicode 17, which the library knows here and not in patterns.
  const std::string digit =
      R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6})" + newer_characters("N") + "]";
  add_split(part, individual ? digit : digit + "+");
}

void PreTokenizer::add_split(const JsonReader& place, std::string_view pattern, Keep keep) {
  if (!place.ok()) return;
  auto regex = Regex::compile(pattern);
  if (!regex.ok()) return place.fail(regex.status().message());
  steps_.push_back({.kind = Kind::kSplit, .regex = std::move(*regex), .keep = keep});
}

void PreTokenizer::read_split(const JsonReader& part) {
  demand_keys(part, {"type", "pattern", "behavior", "invert"});
  const FilePattern pattern = read_pattern(part.at("pattern"));
  std::string behavior;
  part.read("behavior", behavior);
  bool invert = false;
  part.maybe("invert", invert);
  if (!part.ok()) return;
  if (behavior != "Isolated" && behavior != "Removed")
    return part.at("behavior").refuse("\"Isolated\" or \"Removed\": nothing else is supported");
  Keep keep = Keep::kAll;
  if (behavior == "Removed") keep = invert ? Keep::kMatches : Keep::kRest;
  if (!pattern.is_regex) return add_split(part.at("pattern"), literal_pattern(pattern.text), keep);
  const auto translated = translate_split_pattern(pattern.text);
  if (!translated.ok()) return part.at("pattern").fail(translated.status().message());
  add_split(part.at("pattern"), *translated, keep);
}

void PreTokenizer::read_byte_level(const JsonReader& part) {
  demand_keys(part, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  bool prefix = true;
  bool use_regex = true;
  part.maybe("add_prefix_space", prefix);
  part.maybe("use_regex", use_regex);
  if (std::ranges::find(steps_, Kind::kBytes, &Step::kind) != steps_.end())
    return part.fail("is a second ByteLevel: one is supported");
  if (prefix) steps_.push_back({.kind = Kind::kPrefixSpace, .regex = {}});
  if (use_regex) add_split(part, *translate_split_pattern(kGpt2Pattern));
  steps_.push_back({.kind = Kind::kBytes, .regex = {}});
}

/// Before prepend_scheme there was add_prefix_space, and both may be there.
void PreTokenizer::read_metaspace(const JsonReader& part) {
  demand_keys(part,
              {"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"});
  Step step{.kind = Kind::kMetaspace, .regex = {}};
  step.replacement = read_one_character(part, "replacement");
  bool prefix = true;
  part.maybe("add_prefix_space", prefix);
  part.maybe("split", step.split);
  std::string scheme = prefix ? "always" : "never";
  part.maybe("prepend_scheme", scheme);
  if (scheme == "first") {
    step.prepend = Prepend::kFirst;
  } else if (scheme == "never") {
    step.prepend = Prepend::kNever;
  } else if (scheme != "always") {
    part.at("prepend_scheme").refuse("\"always\", \"first\" or \"never\"");
  }
  if (!prefix && step.prepend != Prepend::kNever)
    part.at("prepend_scheme").refuse("\"never\", as add_prefix_space says");
  steps_.push_back(std::move(step));
}

Status PreTokenizer::apply(Words& words, Deadline deadline) const {
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kSplit:
        RETURN_IF_ERROR(split(step, deadline, words));
        break;
      case Kind::kPrefixSpace:
        prefix_space(words);
        break;
      case Kind::kBytes:
        write_bytes(words);
        break;
      case Kind::kMetaspace:
        write_metaspace(step, words);
        break;
    }
  }
  return {};
}

Status PreTokenizer::split(const Step& step, Deadline deadline, Words& words) {
  std::vector<TextRange> out;
  out.reserve(words.ranges.size());
  Regex::Search search(*step.regex, deadline);
  for (const TextRange& range : words.ranges) {
    std::size_t at = range.begin;
    search.start(range.of(words.text));
    while (true) {
      ASSIGN_OR_RETURN(const std::optional<TextRange> found, search.next());
      if (!found) break;
      if (step.keep != Keep::kMatches) add_range(out, {at, range.begin + found->begin});
      at = range.begin + found->end;
      if (step.keep != Keep::kRest) add_range(out, {range.begin + found->begin, at});
    }
    if (step.keep != Keep::kMatches) add_range(out, {at, range.end});
  }
  words.ranges = std::move(out);
  return {};
}

void PreTokenizer::prefix_space(Words& words) {
  std::string text;
  text.reserve(words.text.size() + words.ranges.size());
  for (TextRange& range : words.ranges) {
    const std::size_t begin = text.size();
    if (words.text[range.begin] != ' ') text += ' ';
    text += range.of(words.text);
    range = {begin, text.size()};
  }
  words.text = std::move(text);
}

void PreTokenizer::write_bytes(Words& words) {
  const ByteAlphabet& alphabet = ByteAlphabet::get();
  std::string text;
  text.reserve(words.text.size() * 2);
  for (TextRange& range : words.ranges) {
    const std::size_t begin = text.size();
    for (const char byte : range.of(words.text))
      text += alphabet.text(static_cast<std::uint8_t>(byte));
    range = {begin, text.size()};
  }
  words.text = std::move(text);
}

void PreTokenizer::write_metaspace(const Step& step, Words& words) {
  std::string text;
  text.reserve(words.text.size() * 2);
  std::vector<TextRange> out;
  for (const TextRange& range : words.ranges) {
    const std::string_view word = range.of(words.text);
    std::size_t begin = text.size();
    const bool prepends = step.prepend == Prepend::kAlways ||
                          (step.prepend == Prepend::kFirst && words.at_start && range.begin == 0);
    if (prepends && !word.starts_with(' ') && !word.starts_with(step.replacement))
      text += step.replacement;
    for (std::size_t at = 0; at < word.size(); ++at) {
      // Each replacement begins a word.
      const bool space = word[at] == ' ';
      const bool begins = space || word.substr(at).starts_with(step.replacement);
      if (step.split && begins) {
        add_range(out, {begin, text.size()});
        begin = text.size();
      }
      if (space) {
        text += step.replacement;
      } else {
        text += word[at];
      }
    }
    add_range(out, {begin, text.size()});
  }
  words.text = std::move(text);
  words.ranges = std::move(out);
}

}  // namespace airlock
