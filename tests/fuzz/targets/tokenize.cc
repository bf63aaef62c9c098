// Text to ids, of a control segment and a user's.
//
//   input: u8 which tokenizer, u8 bytes of the control segment, then the text

#include <algorithm>
#include <array>

#include "base/check.h"
#include "tee_runner/tokenizer/tokenizer.h"
#include "tee_runner/tokenizer/utf8.h"
#include "tests/fuzz/take.h"
#include "tests/fuzz/target.h"
#include "tests/support/tiny_tokenizer.h"

namespace airlock::fuzz {
namespace {

using Shared = std::shared_ptr<const Tokenizer>;

Shared with_flags(TokenizerFile file) {
  add_token(file, "<L>", true, {{"lstrip", true}});
  add_token(file, " R", false, {{"rstrip", true}});
  add_token(file, "lo", true, {{"single_word", true}});
  add_token(file, "N w", false, {{"normalized", true}, {"lstrip", true}});
  return make_tokenizer(file);
}

std::vector<Bytes> seeds() {
  std::vector<std::string> texts;
  for (const char which : {0, 1, 2, 3}) {
    texts.push_back(std::string({which, 9}) + "<|begin|>hello the <|end|> lo R  <L>N w");
    texts.push_back(std::string({which, 3}) + "<s> é€\U0001f600\xff </s>\r\n 123");
  }
  return bytes_of(texts);
}

bool run(std::span<const std::byte> input) {
  static const std::array<Shared, 4> kTokenizers = {
      make_tokenizer(byte_level_file()), make_tokenizer(sentence_piece_file()),
      with_flags(byte_level_file()), with_flags(sentence_piece_file())};
  const std::size_t which = take<std::uint8_t>(input) % kTokenizers.size();
  const Tokenizer& tokenizer = *kTokenizers[which];
  const std::size_t wanted = take<std::uint8_t>(input);
  const std::size_t control = std::min(wanted, input.size());
  const std::string_view text = text_of(input);
  const TextSegment segments[] = {{text.substr(0, control), Specials::kParse},
                                  {text.substr(control), Specials::kPlain}};
  const auto ids = tokenizer.encode(segments, Around::kNothing);
  CHECK(ids.ok());
  CHECK(std::ranges::all_of(*ids, [&](std::int32_t id) { return tokenizer.has(id); }));
  const auto decoded = tokenizer.decode(*ids);
  CHECK(decoded.ok() && repaired_utf8(*decoded) == *decoded);
  // What takes no space with it is written back to the letter.
  if (which == 0) {
    CHECK(*decoded == repaired_utf8(segments[0].text) + repaired_utf8(segments[1].text));
  }
  const auto plain = tokenizer.encode(text, Specials::kPlain, Around::kNothing);
  CHECK(plain.ok());
  CHECK(std::ranges::none_of(*plain, [&](std::int32_t id) { return tokenizer.is_special(id); }));
  return true;
}

}  // namespace

constinit const Target kTokenize = {"tokenize", seeds, run};

}  // namespace airlock::fuzz
