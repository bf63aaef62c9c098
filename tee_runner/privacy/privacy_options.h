#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "proto/handshake.h"
#include "proto/op.h"

namespace airlock {

/// What leaves the trusted side, and what is believed of what comes back. docs/PRIVACY.md says what
/// each promises and on what that rests.
enum class PrivacyMode : std::uint8_t {
  kPlain,      // all ops, in the clear
  kTeeOnly,    // nothing: the integers of the modes below, multiplied here
  kVerify,     // linears and lm_head on plain integers, checked
  kOtp,        // the same on masked integers, not checked
  kOtpVerify,  // masked and checked
  kOtpDealer,  // masked and checked; the pads' products come from another server
};

constexpr std::string_view name_of(PrivacyMode mode) {
  switch (mode) {
    case PrivacyMode::kPlain:
      return "plain";
    case PrivacyMode::kTeeOnly:
      return "tee-only";
    case PrivacyMode::kVerify:
      return "verify";
    case PrivacyMode::kOtp:
      return "otp";
    case PrivacyMode::kOtpVerify:
      return "otp-verify";
    case PrivacyMode::kOtpDealer:
      return "otp-dealer";
  }
  return {};
}

constexpr bool is_private(PrivacyMode mode) { return mode != PrivacyMode::kPlain; }
constexpr bool masks(PrivacyMode mode) {
  return mode == PrivacyMode::kOtp || mode == PrivacyMode::kOtpVerify ||
         mode == PrivacyMode::kOtpDealer;
}
constexpr bool checks(PrivacyMode mode) {
  return mode == PrivacyMode::kVerify || mode == PrivacyMode::kOtpVerify ||
         mode == PrivacyMode::kOtpDealer;
}
/// For the log: what is promised, in a sentence.
std::string_view promise_of(PrivacyMode mode);
/// As the handshake with the worker names it. Not of kTeeOnly, which has none.
constexpr Privacy wire_privacy(PrivacyMode mode) {
  switch (mode) {
    case PrivacyMode::kPlain:
    case PrivacyMode::kTeeOnly:
      return Privacy::kPlain;
    case PrivacyMode::kVerify:
      return Privacy::kVerify;
    case PrivacyMode::kOtp:
      return Privacy::kOtp;
    case PrivacyMode::kOtpVerify:
      return Privacy::kOtpVerify;
    case PrivacyMode::kOtpDealer:
      return Privacy::kOtpDealer;
  }
  return Privacy::kPlain;
}

/// What the command line says of it.
struct PrivacyOptions {
  PrivacyMode mode = PrivacyMode::kPlain;
  std::string dealer_endpoint;  // of kOtpDealer alone
  Int8Weights int8_weights = Int8Weights::kW8;
  // A linear's rows are filled up to the next of these with rows that look like others, and beyond
  // the last to a multiple of that; ascending. Empty: to no more than there are.
  std::vector<std::int64_t> pad_tokens;
  // A linear of fewer rows has so many, lm_head's too; 0: as many as there are.
  std::int64_t decode_rows = 0;
  bool oblivious_embedding = false;
  // For products of pads that are made before they are asked for. No option: tests take less.
  std::uint64_t pad_bytes = std::uint64_t{256} << 20;
};

/// So many rows of `linear` as the options have an op show them; at least `rows`.
std::int64_t shown_rows(const PrivacyOptions& options, Linear linear, std::int64_t rows);

}  // namespace airlock
