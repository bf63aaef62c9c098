#include "tee_runner/tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <utility>

#include "base/deadline.h"
#include "base/readable_file.h"
#include "runtime/model/model_files.h"
#include "tee_runner/tokenizer/added_tokens.h"
#include "tee_runner/tokenizer/bpe.h"
#include "tee_runner/tokenizer/decoder.h"
#include "tee_runner/tokenizer/file_parts.h"
#include "tee_runner/tokenizer/normalizer.h"
#include "tee_runner/tokenizer/pre_tokenizer.h"
#include "tee_runner/tokenizer/template.h"
#include "tee_runner/tokenizer/tokenizer_config.h"
#include "tee_runner/tokenizer/utf8.h"
#include "tee_runner/tokenizer/vocabulary.h"

namespace airlock {

namespace {

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{64} << 20;
constexpr std::size_t kMaxFileValues = std::size_t{4} << 20;
// Of the file's patterns with one text: far more than rules for words take.
constexpr std::chrono::seconds kMostTime{30};

Status check_size(std::size_t bytes) {
  if (bytes <= kMaxTextBytes) return {};
  return {StatusCode::kInvalidInput, "a text of {} bytes: at most {} are tokenized at once", bytes,
          kMaxTextBytes};
}

/// A text that is tokenized, and where in it added tokens may be.
struct JoinedText {
  std::string text;
  std::vector<TextRange> spans;
  Specials specials = Specials::kParse;
};

/// What goes from part to part of one text.
struct EncodeState {
  BpeScratch scratch;
  Deadline deadline = Deadline::after(kMostTime);
};

Result<JoinedText> join(std::span<const TextSegment> segments) {
  std::size_t bytes = 0;
  for (const TextSegment& segment : segments) bytes += segment.text.size();
  RETURN_IF_ERROR(check_size(bytes));
  JoinedText joined;
  joined.text.reserve(bytes);
  for (const TextSegment& segment : segments) {
    const std::size_t begin = joined.text.size();
    append_utf8(segment.text, TextEnd::kEnds, joined.text);
    const std::size_t end = joined.text.size();
    if (begin == end) continue;
    if (segment.specials == Specials::kPlain) {
      joined.specials = Specials::kPlain;
    } else if (!joined.spans.empty() && joined.spans.back().end == begin) {
      joined.spans.back().end = end;
    } else {
      joined.spans.push_back({begin, end});
    }
  }
  return joined;
}

/// What of `spans` lies in `range`, counted from its begin.
std::vector<TextRange> clipped(std::span<const TextRange> spans, TextRange range) {
  std::vector<TextRange> inside;
  auto span = std::ranges::upper_bound(spans, range.begin, {}, &TextRange::end);
  for (; span != spans.end() && span->begin < range.end; ++span) {
    inside.push_back({std::max(span->begin, range.begin) - range.begin,
                      std::min(span->end, range.end) - range.begin});
  }
  return inside;
}

}  // namespace

struct Tokenizer::Parts {
  std::string source;
  Vocabulary vocabulary;
  Normalizer normalizer;
  AddedTokens added;
  PreTokenizer pre_tokenizer;
  Bpe model;
  TextTemplate around;
  Decoder decoder;
  std::vector<bool> special;
  std::int32_t bos_id = kNoToken;
  std::vector<std::int32_t> eos_ids;

  static Result<std::unique_ptr<Parts>> read(std::string_view json, std::string_view source);
  Status apply(const TokenizerConfig& config);
  bool is_special(std::int32_t id) const {
    return vocabulary.has(id) && special[static_cast<std::size_t>(id)];
  }
  Status encode_text(JoinedText& text, bool at_start, EncodeState& state,
                     std::vector<std::int32_t>& ids) const;
  Status encode_joined(const JoinedText& joined, std::vector<std::int32_t>& ids) const;
  /// nullptr: it is not shown.
  Result<const std::string*> shown_token(std::int32_t id, Shown shown) const;
};

Result<std::unique_ptr<Tokenizer::Parts>> Tokenizer::Parts::read(std::string_view json,
                                                                 std::string_view source) {
  ASSIGN_OR_RETURN(const Json document, parse_json(json, source, kMaxFileValues));
  Status status;
  const JsonReader root(document, source, status);
  auto parts = std::make_unique<Parts>();
  parts->source = source;
  demand_keys(root, {"version", "truncation", "padding", "added_tokens", "normalizer",
                     "pre_tokenizer", "post_processor", "decoder", "model"});
  for (const std::string_view key : {"truncation", "padding"}) {
    if (root.has(key)) root.at(key).refuse("null: nothing else is supported");
  }
  const JsonReader model = root.at("model");
  if (root.ok()) parts->model = Bpe::read(model, parts->vocabulary);
  if (root.ok()) parts->normalizer = Normalizer::read(root);
  if (root.ok()) parts->added = AddedTokens::read(root, parts->normalizer, parts->vocabulary);
  if (root.ok()) parts->pre_tokenizer = PreTokenizer::read(root);
  if (root.ok()) parts->around = TextTemplate::read(root, parts->vocabulary);
  if (root.ok()) parts->decoder = Decoder::read(root);
  RETURN_IF_ERROR(status);
  if (parts->vocabulary.count() == 0)
    return Status(StatusCode::kInvalidInput, "{}: has no tokens", source);
  parts->special = parts->added.special(parts->vocabulary);
  parts->model.set_special(parts->special);
  return parts;
}

/// What the files beside it say. Where the template puts nothing before a text and add_bos_token is
/// true, the begin token is put there; where nothing is put behind, add_eos_token's the same way.
Status Tokenizer::Parts::apply(const TokenizerConfig& config) {
  if (config.bos_token) bos_id = vocabulary.find(*config.bos_token);
  const std::int32_t eos = config.eos_token ? vocabulary.find(*config.eos_token) : kNoToken;
  if (config.add_bos_token.value_or(false) && around.before.empty() && bos_id != kNoToken)
    around.before.push_back(bos_id);
  if (config.add_eos_token.value_or(false) && around.after.empty() && eos != kNoToken)
    around.after.push_back(eos);
  if (bos_id == kNoToken) bos_id = config.bos_id.value_or(std::int32_t{kNoToken});
  eos_ids = config.eos_ids;
  if (eos != kNoToken && std::ranges::find(eos_ids, eos) == eos_ids.end()) eos_ids.push_back(eos);
  for (const std::int32_t id : eos_ids) {
    if (!vocabulary.has(id)) {
      return {StatusCode::kInvalidInput,
              "generation_config.json: 'eos_token_id' has {}, which is no token of tokenizer.json",
              id};
    }
  }
  if (!vocabulary.has(bos_id)) bos_id = kNoToken;
  return {};
}

/// Text between added tokens that were found as it was given.
Status Tokenizer::Parts::encode_text(JoinedText& given, bool at_start, EncodeState& state,
                                     std::vector<std::int32_t>& ids) const {
  if (Status status = normalizer.apply(given.text, given.spans); !status.ok())
    return status.with_context(source + ": 'normalizer'");
  for (const TextPart& part :
       added.split(given.text, given.spans, AddedTokens::Stage::kNormalized)) {
    if (part.id != kNoToken) {
      ids.push_back(part.id);
      continue;
    }
    Words words;
    words.text = part.range.of(given.text);
    words.at_start = at_start && part.range.begin == 0;
    if (words.text.empty()) continue;
    words.ranges.push_back({0, words.text.size()});
    if (Status status = pre_tokenizer.apply(words, state.deadline); !status.ok())
      return status.with_context(source + ": 'pre_tokenizer'");
    for (const TextRange& word : words.ranges)
      model.encode(word.of(words.text), given.specials, state.scratch, ids);
  }
  return {};
}

Status Tokenizer::Parts::encode_joined(const JoinedText& joined,
                                       std::vector<std::int32_t>& ids) const {
  EncodeState state;
  for (const TextPart& part : added.split(joined.text, joined.spans, AddedTokens::Stage::kGiven)) {
    if (part.id != kNoToken) {
      ids.push_back(part.id);
      continue;
    }
    JoinedText inner{std::string(part.range.of(joined.text)), clipped(joined.spans, part.range),
                     joined.specials};
    RETURN_IF_ERROR(encode_text(inner, part.range.begin == 0, state, ids));
  }
  return {};
}

Result<const std::string*> Tokenizer::Parts::shown_token(std::int32_t id, Shown shown) const {
  if (!vocabulary.has(id)) {
    return Status(StatusCode::kInvalidInput, "{}: has no token {}; ids are below {}", source, id,
                  vocabulary.end());
  }
  if (shown == Shown::kNoSpecial && is_special(id)) return nullptr;
  return &vocabulary.text(id);
}

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

Result<std::shared_ptr<const Tokenizer>> Tokenizer::open(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::string folder, find_model_folder(directory));
  const std::string path = folder + "/tokenizer.json";
  RETURN_IF_ERROR(check_model_file(path));
  ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxFileBytes));
  ASSIGN_OR_RETURN(std::unique_ptr<Parts> parts, Parts::read(text, path));
  ASSIGN_OR_RETURN(const TokenizerConfig config, TokenizerConfig::read(folder));
  if (Status status = parts->apply(config); !status.ok()) return status.with_context(folder);
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(parts)));
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::parse(std::string_view json,
                                                          std::string_view source) {
  ASSIGN_OR_RETURN(std::unique_ptr<Parts> parts, Parts::read(json, source));
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(parts)));
}

Result<std::vector<std::int32_t>> Tokenizer::encode(std::string_view text, Specials specials,
                                                    Around around) const {
  const TextSegment whole{text, specials};
  return encode(std::span(&whole, 1), around);
}

Result<std::vector<std::int32_t>> Tokenizer::encode(std::span<const TextSegment> segments,
                                                    Around around) const {
  try {
    ASSIGN_OR_RETURN(const JoinedText joined, join(segments));
    std::vector<std::int32_t> ids;
    if (around == Around::kTemplate) ids = parts_->around.before;
    RETURN_IF_ERROR(parts_->encode_joined(joined, ids));
    if (around == Around::kTemplate)
      ids.insert(ids.end(), parts_->around.after.begin(), parts_->around.after.end());
    return ids;
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "no memory to tokenize this text");
  }
}

Result<std::string> Tokenizer::decode(std::span<const std::int32_t> ids, Shown shown) const {
  Decoder::Stream stream(parts_->decoder);
  std::string out;
  for (const std::int32_t id : ids) {
    ASSIGN_OR_RETURN(const std::string* const token, parts_->shown_token(id, shown));
    if (token != nullptr) stream.push(*token, out);
  }
  stream.flush(out);
  return out;
}

std::int32_t Tokenizer::vocab_size() const { return parts_->vocabulary.end(); }
bool Tokenizer::has(std::int64_t id) const { return parts_->vocabulary.has(id); }
std::string_view Tokenizer::token(std::int32_t id) const { return parts_->vocabulary.text(id); }
std::optional<std::int32_t> Tokenizer::find(std::string_view token) const {
  const std::int32_t id = parts_->vocabulary.find(token);
  return id == kNoToken ? std::nullopt : std::optional(id);
}
bool Tokenizer::is_special(std::int32_t id) const { return parts_->is_special(id); }
std::optional<std::int32_t> Tokenizer::bos_id() const {
  return parts_->bos_id == kNoToken ? std::nullopt : std::optional(parts_->bos_id);
}
const std::vector<std::int32_t>& Tokenizer::eos_ids() const { return parts_->eos_ids; }

struct StreamDecoder::State {
  State(std::shared_ptr<const Tokenizer> used, Shown which)
      : tokenizer(std::move(used)), shown(which), stream(tokenizer->parts_->decoder) {}

  const std::shared_ptr<const Tokenizer> tokenizer;
  const Shown shown;
  Decoder::Stream stream;
};

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, Shown shown)
    : state_(std::make_unique<State>(std::move(tokenizer), shown)) {}
StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

Result<std::string> StreamDecoder::push(std::int32_t id) {
  ASSIGN_OR_RETURN(const std::string* const token,
                   state_->tokenizer->parts_->shown_token(id, state_->shown));
  std::string out;
  if (token != nullptr) state_->stream.push(*token, out);
  return out;
}

std::string StreamDecoder::flush() {
  std::string out;
  state_->stream.flush(out);
  return out;
}

}  // namespace airlock
