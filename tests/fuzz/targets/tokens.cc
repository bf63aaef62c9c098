// Token ids of --tokens and of --tokens-file.

#include <charconv>
#include <limits>

#include "base/check.h"
#include "tee_runner/options.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

std::vector<Bytes> seeds() { return bytes_of({"1,2,3", " 0\t5,\r\n 2147483647\n", ""}); }

bool run(std::span<const std::byte> input) {
  const auto tokens = parse_tokens(text_of(input), "fuzz");
  if (!tokens.ok()) {
    CHECK(tokens.status().code() == StatusCode::kUsage ||
          tokens.status().code() == StatusCode::kInvalidInput);
    check_refusal(tokens.status());
    return false;
  }
  CHECK(tokens->size() <= input.size() / 2 + 1);
  std::string text;
  for (const std::int32_t token : *tokens) {
    CHECK(token >= 0);
    text += std::to_string(token) + ",";
  }
  const auto again = parse_tokens(text, "again");
  CHECK(again.ok() && *again == *tokens);
  return true;
}

}  // namespace

constinit const Target kTokens = {"tokens", seeds, run};

}  // namespace airlock::fuzz
