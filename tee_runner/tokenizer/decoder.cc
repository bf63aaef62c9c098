#include "tee_runner/tokenizer/decoder.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <utility>

#include "tee_runner/tokenizer/byte_alphabet.h"
#include "tee_runner/tokenizer/file_parts.h"
#include "tee_runner/tokenizer/utf8.h"

namespace airlock {
namespace {

constexpr std::int64_t kMaxStrip = 4096;

/// Of <0x41>; nullopt for other tokens.
std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
  unsigned value = 0;
  const char* begin = token.data() + 3;
  const char* const end = token.data() + 5;
  // As the parser does that Hugging Face uses.
  if (*begin == '+') ++begin;
  const auto [stop, error] = std::from_chars(begin, end, value, 16);
  if (error != std::errc() || stop != end) return std::nullopt;
  return static_cast<char>(value);
}

std::string replaced(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  while (true) {
    const std::size_t found = text.find(pattern);
    out += text.substr(0, found);
    if (found == std::string_view::npos) return out;
    out += content;
    text.remove_prefix(found + pattern.size());
  }
}

std::string_view stripped(std::string_view text, std::string_view character, std::size_t start,
                          std::size_t stop) {
  for (; start > 0 && text.starts_with(character); --start) text.remove_prefix(character.size());
  for (; stop > 0 && text.ends_with(character); --stop) text.remove_suffix(character.size());
  return text;
}

/// The bytes that a token of a byte-level vocabulary stands for; its own, where it is none.
void append_bytes(std::string_view token, std::string& bytes) {
  const ByteAlphabet& alphabet = ByteAlphabet::get();
  const std::size_t before = bytes.size();
  for (std::string_view rest = token; !rest.empty();) {
    const Character character = first_character(rest);
    const auto byte = alphabet.byte(character.code);
    if (!byte) {
      bytes.resize(before);
      bytes += token;
      return;
    }
    bytes += static_cast<char>(*byte);
    rest.remove_prefix(character.bytes);
  }
}

}  // namespace

Decoder Decoder::read(const JsonReader& root) {
  Decoder decoder;
  for_each_part_of(root, "decoder", "decoders",
                   [&](const JsonReader& part) { decoder.read_part(part); });
  if (root.ok() && !root.has("decoder")) {
    Step step;
    step.kind = Kind::kSpaceBetween;
    decoder.steps_.push_back(std::move(step));
  }
  return decoder;
}

void Decoder::read_part(const JsonReader& part) {
  demand_type(part,
              {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "Sequence"});
  if (!part.ok()) return;
  const std::string& type = part.at("type").json().text;
  if (type == "Replace") return read_replace(part);
  if (type == "Metaspace") return read_metaspace(part);
  if (type == "Strip") return read_strip(part);
  if (type == "ByteFallback") {
    demand_keys(part, {"type"});
    Step step;
    step.kind = Kind::kByteFallback;
    return add(part, std::move(step));
  }
  const bool is_fuse = type == "Fuse";
  if (is_fuse) {
    demand_keys(part, {"type"});
  } else {
    demand_keys(part, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  }
  if (join_ == Join::kNone) {
    join_ = is_fuse ? Join::kTexts : Join::kBytes;
  } else if (!is_fuse) {
    part.fail("stands after the tokens were joined: only Strip is supported there");
  }
}

void Decoder::add(const JsonReader& part, Step step) {
  if (!part.ok()) return;
  const bool is_strip = step.kind == Kind::kStrip;
  if (join_ == Join::kNone) {
    steps_.push_back(std::move(step));
  } else if (is_strip && step.stop == 0) {
    strips_.push_back(std::move(step));
  } else if (is_strip) {
    part.at("stop").refuse("0 after Fuse: nothing else is supported");
  } else {
    part.fail("stands after the tokens were joined: only Strip is supported there");
  }
}

void Decoder::read_replace(const JsonReader& part) {
  demand_keys(part, {"type", "pattern", "content"});
  Step step;
  const FilePattern pattern = read_pattern(part.at("pattern"));
  if (pattern.is_regex) part.at("pattern").refuse("a String: no Regex is supported here");
  step.pattern = pattern.text;
  part.read("content", step.content);
  add(part, std::move(step));
}

void Decoder::read_metaspace(const JsonReader& part) {
  demand_keys(part,
              {"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"});
  Step step;
  step.kind = Kind::kMetaspace;
  step.pattern = read_one_character(part, "replacement");
  bool prefix = true;
  part.maybe("add_prefix_space", prefix);
  std::string scheme = prefix ? "always" : "never";
  part.maybe("prepend_scheme", scheme);
  if (scheme != "always" && scheme != "first" && scheme != "never")
    part.at("prepend_scheme").refuse("\"always\", \"first\" or \"never\"");
  step.drops_first = scheme != "never";
  add(part, std::move(step));
}

void Decoder::read_strip(const JsonReader& part) {
  demand_keys(part, {"type", "content", "start", "stop"});
  Step step;
  step.kind = Kind::kStrip;
  step.pattern = read_one_character(part, "content");
  part.read("start", step.start, kMaxStrip);
  part.read("stop", step.stop, kMaxStrip);
  add(part, std::move(step));
}

Decoder::Stream::Stream(const Decoder& decoder) : decoder_(decoder) { reset(); }

void Decoder::Stream::reset() {
  states_.assign(decoder_.steps_.size(), {});
  bytes_.clear();
  strips_.clear();
  for (const Step& step : decoder_.strips_) strips_.push_back(step.start);
}

void Decoder::Stream::push(std::string_view token, std::string& out) { give(0, token, out); }

void Decoder::Stream::flush(std::string& out) {
  for (std::size_t step = 0; step < states_.size(); ++step) release(step, out);
  std::string rest;
  append_utf8(bytes_, TextEnd::kEnds, rest);
  strip(rest, out);
  reset();
}

/// The token on its way from `step` on.
void Decoder::Stream::give(std::size_t at, std::string_view token, std::string& out) {
  if (at == decoder_.steps_.size()) return finish(token, out);
  const Step& step = decoder_.steps_[at];
  StepState& state = states_[at];
  const bool first = !std::exchange(state.begun, true);
  switch (step.kind) {
    case Kind::kReplace:
      return give(at + 1, replaced(token, step.pattern, step.content), out);
    case Kind::kMetaspace:
      return give(at + 1, replaced(token, step.pattern, first && step.drops_first ? "" : " "), out);
    case Kind::kStrip:
      return give(at + 1, stripped(token, step.pattern, step.start, step.stop), out);
    case Kind::kSpaceBetween:
      return give(at + 1, first ? std::string(token) : fmt::format(" {}", token), out);
    case Kind::kByteFallback:
      break;
  }
  if (const auto byte = byte_of(token)) {
    state.bytes += *byte;
    return;
  }
  release(at, out);
  give(at + 1, token, out);
}

/// The end of a run of byte tokens.
void Decoder::Stream::release(std::size_t at, std::string& out) {
  const std::string bytes = std::exchange(states_[at].bytes, {});
  if (bytes.empty()) return;
  if (repaired_utf8(bytes) == bytes) return give(at + 1, bytes, out);
  for (std::size_t i = 0; i < bytes.size(); ++i) give(at + 1, kReplacementCharacter, out);
}

void Decoder::Stream::finish(std::string_view token, std::string& out) {
  if (decoder_.join_ != Join::kBytes) return strip(token, out);
  append_bytes(token, bytes_);
  std::string whole;
  bytes_.erase(0, append_utf8(bytes_, TextEnd::kMoreComes, whole));
  strip(whole, out);
}

void Decoder::Stream::strip(std::string_view text, std::string& out) {
  for (std::size_t i = 0; i < strips_.size() && !text.empty(); ++i) {
    const std::string& character = decoder_.strips_[i].pattern;
    for (; strips_[i] > 0 && text.starts_with(character); --strips_[i])
      text.remove_prefix(character.size());
    if (!text.empty()) strips_[i] = 0;
  }
  out += text;
}

}  // namespace airlock
