#include "tee_runner/tokenizer/normalizer.h"

#include <utility>

#include "tee_runner/tokenizer/file_parts.h"

namespace airlock {

namespace {

// Of a text, at most; a space of three bytes makes it three times as long.
constexpr std::size_t kMaxGrowth = 8;
constexpr std::size_t kMoreGrowthBytes = std::size_t{64} << 10;

}  // namespace

Normalizer Normalizer::read(const JsonReader& root) {
  Normalizer normalizer;
  for_each_part_of(root, "normalizer", "normalizers", [&](const JsonReader& part) {
    demand_type(part, {"Prepend", "Replace", "Sequence"});
    if (!part.ok()) return;
    Step step;
    if (part.at("type").json().text == "Prepend") {
      demand_keys(part, {"type", "prepend"});
      part.read("prepend", step.content);
      if (step.content.empty()) return;
    } else {
      demand_keys(part, {"type", "pattern", "content"});
      const FilePattern pattern = read_pattern(part.at("pattern"));
      if (pattern.is_regex) part.at("pattern").refuse("a String: no Regex is supported here");
      step.pattern = pattern.text;
      part.read("content", step.content);
    }
    normalizer.steps_.push_back(std::move(step));
  });
  return normalizer;
}

Status Normalizer::apply(std::string& text, std::vector<TextRange>& spans) const {
  const std::size_t most_bytes = text.size() * kMaxGrowth + kMoreGrowthBytes;
  for (const Step& step : steps_) {
    if (text.empty()) return {};
    if (step.pattern.empty()) {
      prepend(step.content, text, spans);
    } else {
      replace(step, most_bytes, text, spans);
    }
    if (text.size() > most_bytes)
      return {StatusCode::kInvalidInput, "makes over {} bytes of a text", most_bytes};
  }
  return {};
}

void Normalizer::prepend(std::string_view content, std::string& text,
                         std::vector<TextRange>& spans) {
  text.insert(0, content);
  for (TextRange& span : spans) {
    if (span.begin > 0) span.begin += content.size();
    span.end += content.size();
  }
}

void Normalizer::replace(const Step& step, std::size_t most_bytes, std::string& text,
                         std::vector<TextRange>& spans) {
  std::size_t match = text.find(step.pattern);
  if (match == std::string::npos) return;
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  // The ends of spans, which are met in this order.
  std::vector<std::pair<std::size_t*, bool>> ends;
  for (TextRange& span : spans) {
    ends.emplace_back(&span.begin, true);
    ends.emplace_back(&span.end, false);
  }
  std::size_t met = 0;
  std::size_t at = 0;
  while (at <= text.size()) {
    const std::size_t stop = std::min(match, text.size());
    for (; met < ends.size() && *ends[met].first <= stop; ++met)
      *ends[met].first = *ends[met].first - at + out.size();
    out.append(text, at, stop - at);
    if (match == std::string::npos) break;
    at = match + step.pattern.size();
    // Within what is replaced: a span gets none of it.
    const std::size_t before = out.size();
    out += step.content;
    for (; met < ends.size() && *ends[met].first < at; ++met)
      *ends[met].first = ends[met].second ? out.size() : before;
    if (out.size() > most_bytes) break;
    match = text.find(step.pattern, at);
  }
  text = std::move(out);
}

}  // namespace airlock
