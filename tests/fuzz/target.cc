#include "tests/fuzz/target.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/safe_text.h"

namespace airlock::fuzz {

std::span<const Target> targets() {
  static const std::array kAll = {
      kControl,        kRequest,   kResponse,     kWire,         kOpening,
      kZmtp,           kRing,      kJson,         kConfig,       kSafetensors,
      kModelDirectory, kTraceLine, kTraceFile,    kPrototypeLog, kCountersFile,
      kReport,         kTokens,    kCommandLine,  kEndpoint,     kTrial,
      kTokenizerFile,  kTokenize,  kChatMessages, kChatTemplate, kCompletionBody};
  return kAll;
}

const Target* find_target(std::string_view name) {
  const auto all = targets();
  const auto found = std::ranges::find(all, name, &Target::name);
  return found == all.end() ? nullptr : &*found;
}

void check_refusal(const Status& status) {
  CHECK(!status.ok() && status.code() != StatusCode::kInternal &&
        status.code() != StatusCode::kBusy);
  const std::string& message = status.message();
  CHECK(!message.empty());
  CHECK(!has_controls(message));
}

}  // namespace airlock::fuzz
