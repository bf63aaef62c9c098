#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tee_runner/tokenizer/specials.h"

namespace airlock {

/// A piece of a text that is tokenized as one. Views the text.
struct TextSegment {
  std::string_view text;
  Specials specials = Specials::kParse;
};

/// Whether the tokens come that the file's template puts around a text: the begin token.
enum class Around : std::uint8_t { kTemplate, kNothing };

/// Which tokens a text is made from.
enum class Shown : std::uint8_t { kAll, kNoSpecial };

/// The tokenizer of a Hugging Face model, as its tokenizer.json says: byte-level BPE (LLaMA 3,
/// GPT-2) and BPE of characters with byte fallback (LLaMA 2). Gives the ids and the texts that
/// Hugging Face's library gives. Does not change after it was made: thread-safe.
class Tokenizer {
 public:
  /// Reads tokenizer.json in the folder of a model (or in its folder of the Hugging Face cache),
  /// and tokenizer_config.json and generation_config.json where they are there. kInvalidInput,
  /// naming file, key and value, for what is wrong or asks for what is not done here. Shared by all
  /// who use it, and by their StreamDecoders.
  static Result<std::shared_ptr<const Tokenizer>> open(const std::string& directory);
  /// The same from the text of a tokenizer.json; `source` names it in messages.
  static Result<std::shared_ptr<const Tokenizer>> parse(std::string_view json,
                                                        std::string_view source);
  ~Tokenizer();

  /// The ids of a text. What is not UTF-8 in it is replaced by U+FFFD. kInvalidInput for a text of
  /// over 64 MiB, or one that the file's patterns give up on; kResourceExhausted without memory.
  Result<std::vector<std::int32_t>> encode(std::string_view text,
                                           Specials specials = Specials::kParse,
                                           Around around = Around::kTemplate) const;
  /// The ids of the segments' texts as one text: rules for words see across their borders. An added
  /// token lies in segments with Specials::kParse alone. Where there is a plain segment, no special
  /// token comes of characters by any other way either.
  Result<std::vector<std::int32_t>> encode(std::span<const TextSegment> segments,
                                           Around around = Around::kTemplate) const;

  /// The text of ids. kInvalidInput for one that is no token.
  Result<std::string> decode(std::span<const std::int32_t> ids, Shown shown = Shown::kAll) const;

  /// One more than the largest id.
  std::int32_t vocab_size() const;
  /// Whether ids have this one.
  bool has(std::int64_t id) const;
  /// As the file spells it (a byte-level " a" is "Ġa"); of an id that is there. Lives as long as
  /// this.
  std::string_view token(std::int32_t id) const;
  /// nullopt where none has this spelling.
  std::optional<std::int32_t> find(std::string_view token) const;
  bool is_special(std::int32_t id) const;
  /// bos_token of tokenizer_config.json, else bos_token_id of generation_config.json.
  std::optional<std::int32_t> bos_id() const;
  /// What ends an answer: eos_token_id of generation_config.json, and eos_token of
  /// tokenizer_config.json.
  const std::vector<std::int32_t>& eos_ids() const;

 private:
  friend class StreamDecoder;
  struct Parts;
  explicit Tokenizer(std::unique_ptr<const Parts> parts);

  // Never null.
  std::unique_ptr<const Parts> parts_;
};

/// Text of ids that come one by one, as an answer does. Gives out whole characters of UTF-8, and
/// what it has given out by the flush is what Tokenizer::decode() gives for all of them. One
/// thread.
class StreamDecoder {
 public:
  explicit StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, Shown shown = Shown::kAll);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;

  /// The text that is certain with this id; may be empty. kInvalidInput for one that is no token.
  Result<std::string> push(std::int32_t id);
  /// The rest: U+FFFD for an incomplete character. The next id begins a new text.
  std::string flush();

 private:
  struct State;

  std::unique_ptr<State> state_;
};

}  // namespace airlock
