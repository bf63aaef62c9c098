#include "tee_runner/tokenizer/template.h"

#include <fmt/format.h>

#include <string>

#include "tee_runner/tokenizer/file_parts.h"

namespace airlock {
namespace {

/// The ids that `piece`, {"SpecialToken":{"id":NAME}}, stands for.
void read_special(const JsonReader& processor, const JsonReader& piece,
                  const Vocabulary& vocabulary, std::vector<std::int32_t>& ids) {
  std::string name;
  piece.at("SpecialToken").read("id", name);
  if (!piece.ok()) return;
  const JsonReader special = processor.at("special_tokens").at(name);
  if (!piece.ok()) return;
  for (const JsonReader& item : special.at("ids").items(TextTemplate::kMaxIds)) {
    std::int64_t id = 0;
    item.get(id);
    if (item.ok() && !vocabulary.has(id)) item.refuse("the id of a token");
    ids.push_back(static_cast<std::int32_t>(id));
  }
}

void read_one(const JsonReader& processor, const Vocabulary& vocabulary, TextTemplate& out) {
  demand_keys(processor, {"type", "single", "pair", "special_tokens"});
  if (!processor.ok()) return;
  TextTemplate around;
  bool seen = false;
  for (const JsonReader& piece : processor.at("single").items(TextTemplate::kMaxIds)) {
    demand_keys(piece, {"SpecialToken", "Sequence"});
    if (!piece.ok()) return;
    if (piece.has("SpecialToken")) {
      read_special(processor, piece, vocabulary, seen ? around.after : around.before);
      continue;
    }
    std::string name;
    piece.at("Sequence").read("id", name);
    if (name != "A" || seen) return piece.refuse("the Sequence \"A\", once");
    seen = true;
  }
  if (processor.ok() && !seen) return processor.at("single").fail("has no Sequence \"A\"");
  // Around what those before it have made.
  out.before.insert(out.before.begin(), around.before.begin(), around.before.end());
  out.after.insert(out.after.end(), around.after.begin(), around.after.end());
}

}  // namespace

TextTemplate TextTemplate::read(const JsonReader& root, const Vocabulary& vocabulary) {
  TextTemplate made;
  for_each_part_of(root, "post_processor", "processors", [&](const JsonReader& part) {
    demand_type(part, {"TemplateProcessing", "ByteLevel", "Sequence"});
    if (!part.ok()) return;
    if (part.at("type").json().text == "TemplateProcessing")
      return read_one(part, vocabulary, made);
    // Its options are about where in the text a token was, which is not asked for.
    demand_keys(part, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  });
  return made;
}

}  // namespace airlock
