#include "tee_runner/tokenizer/byte_alphabet.h"

#include "tee_runner/tokenizer/utf8.h"

namespace airlock {

const ByteAlphabet& ByteAlphabet::get() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

ByteAlphabet::ByteAlphabet() {
  bytes_.fill(-1);
  char32_t next = 0x100;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool seen = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    const char32_t code = seen ? byte : next++;
    append_character(texts_[byte], code);
    bytes_[code] = static_cast<std::int16_t>(byte);
  }
}

}  // namespace airlock
