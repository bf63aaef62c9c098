// A tokenizer.json: whatever is accepted can be used.

#include "base/check.h"
#include "base/safe_text.h"
#include "tee_runner/tokenizer/tokenizer.h"
#include "tee_runner/tokenizer/utf8.h"
#include "tests/fuzz/target.h"
#include "tests/support/tiny_tokenizer.h"

namespace airlock::fuzz {
namespace {

std::vector<Bytes> seeds() {
  TokenizerFile metaspace = sentence_piece_file();
  metaspace["normalizer"] = nullptr;
  metaspace["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "▁"}};
  metaspace["decoder"] = metaspace["pre_tokenizer"];
  TokenizerFile digits = byte_level_file();
  digits["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers",
                              {{{"type", "Digits"}, {"individual_digits", true}},
                               {{"type", "ByteLevel"}, {"add_prefix_space", true}}}}};
  TokenizerFile flags = bare_file();
  flags["model"]["vocab"] = {{"a", 0}, {"b", 1}, {"ab", 2}, {" ", 3}};
  flags["model"]["merges"] = {"a b"};
  add_token(flags, "<a>", true, {{"lstrip", true}, {"rstrip", true}});
  add_token(flags, "b", false, {{"single_word", true}, {"normalized", true}});
  return bytes_of(std::vector<std::string>{byte_level_file().dump(), sentence_piece_file().dump(),
                                           metaspace.dump(), digits.dump(), flags.dump()});
}

/// A text's ids are tokens, and their text is UTF-8, in one go as one by one.
void use(const std::shared_ptr<const Tokenizer>& tokenizer, std::string_view text) {
  const TextSegment segments[] = {{text, Specials::kParse}, {text, Specials::kPlain}};
  const auto ids = tokenizer->encode(segments);
  if (!ids.ok()) return check_refusal(ids.status());
  StreamDecoder stream(tokenizer);
  std::string streamed;
  for (const std::int32_t id : *ids) {
    CHECK(tokenizer->has(id));
    const auto more = stream.push(id);
    CHECK(more.ok() && repaired_utf8(*more) == *more);
    streamed += *more;
  }
  streamed += stream.flush();
  const auto decoded = tokenizer->decode(*ids);
  CHECK(decoded.ok() && *decoded == streamed);
}

bool run(std::span<const std::byte> input) {
  const auto tokenizer = Tokenizer::parse(text_of(input), "fuzz");
  if (!tokenizer.ok()) {
    CHECK(tokenizer.status().code() == StatusCode::kInvalidInput);
    check_refusal(tokenizer.status());
    return false;
  }
  for (const std::string_view text :
       {"", " ", "hello the  world 123\r\n\n", "<a> b<s></s>ab<|begin|> é€\U0001f600\xff",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa▁▁"})
    use(*tokenizer, text);
  return true;
}

}  // namespace

constinit const Target kTokenizerFile = {"tokenizer_file", seeds, run};

}  // namespace airlock::fuzz
