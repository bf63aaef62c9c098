#include "tee_runner/privacy/privacy_options.h"

#include <algorithm>

#include "proto/limits.h"

namespace airlock {

std::string_view promise_of(PrivacyMode mode) {
  switch (mode) {
    case PrivacyMode::kPlain:
      return "the server sees token ids and every activation, and can alter every result";
    case PrivacyMode::kTeeOnly:
      return "nothing leaves this process";
    case PrivacyMode::kVerify:
      return "the server sees every linear's input and cannot alter a result";
    case PrivacyMode::kOtp:
      return "a server that follows the protocol learns shapes and times only; results are not "
             "checked";
    case PrivacyMode::kOtpVerify:
      return "the server learns shapes and times only and cannot alter a result";
    case PrivacyMode::kOtpDealer:
      return "server and dealer, unless one owner has both or they talk, learn shapes and times "
             "only and cannot alter a result";
  }
  return {};
}

std::int64_t shown_rows(const PrivacyOptions& options, Linear linear, std::int64_t rows) {
  if (rows <= options.decode_rows) return options.decode_rows;
  // Of a prompt lm_head sees the last row alone.
  if (options.pad_tokens.empty() || linear == Linear::kLmHead) return rows;
  const auto bucket = std::ranges::lower_bound(options.pad_tokens, rows);
  if (bucket != options.pad_tokens.end()) return *bucket;
  const std::int64_t last = options.pad_tokens.back();
  // No op has more rows.
  return std::max(rows, std::min((rows + last - 1) / last * last, limits::kMaxTokens));
}

}  // namespace airlock
