#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace airlock::fuzz {

using Bytes = std::vector<std::byte>;

/// A parser that a peer, a file or a user reaches. libFuzzer drives it (tools/fuzz), and at every
/// test run fuzz_corpus_test gives it its seeds and what lies in corpus/NAME/.
struct Target {
  std::string_view name;
  /// Inputs that it accepts, made by the writers that the parser is the reverse of.
  std::vector<Bytes> (*seeds)();
  /// Takes any bytes. What is accepted has to lie within its limits and to come back the same from
  /// its own encoding; what is refused, to say so in words that can be printed. A broken promise
  /// ends the process (CHECK). Whether the input was accepted. One thread.
  bool (*run)(std::span<const std::byte> input);
};

// Each is defined in targets/.
extern const Target kControl, kRequest, kResponse, kWire, kOpening, kZmtp, kRing, kJson, kConfig,
    kSafetensors, kModelDirectory, kTraceLine, kTraceFile, kPrototypeLog, kCountersFile, kReport,
    kTokens, kCommandLine, kEndpoint, kTrial, kTokenizerFile, kTokenize, kChatMessages,
    kChatTemplate, kCompletionBody;

/// All of them.
std::span<const Target> targets();
/// nullptr where there is none.
const Target* find_target(std::string_view name);

/// CHECKs what every refusal has to be: the fault of the input, in words without control
/// characters.
void check_refusal(const Status& status);

inline std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Bytes bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}
/// Each text as an input.
inline std::vector<Bytes> bytes_of(const std::vector<std::string>& texts) {
  std::vector<Bytes> all;
  for (const std::string& text : texts) all.push_back(bytes_of(text));
  return all;
}

}  // namespace airlock::fuzz
