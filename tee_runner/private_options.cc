#include <sys/stat.h>

#include <array>
#include <charconv>

#include "proto/limits.h"
#include "runtime/program/command_line.h"
#include "runtime/rpc/endpoint.h"
#include "tee_runner/options.h"
#include "tee_runner/tile_choice.h"

namespace airlock {

namespace {

constexpr std::array kInt8Choices = {Int8Weights::kW8, Int8Weights::kW16, Int8Weights::kAuto};
constexpr std::size_t kMostBuckets = 64;

Status set_buckets(const std::string& text, std::vector<std::int64_t>& buckets) {
  buckets.clear();
  for (const char* at = text.data();;) {
    const char* const end = text.data() + text.size();
    std::int64_t rows = 0;
    const auto [stop, error] = std::from_chars(at, end, rows);
    const bool ascends = buckets.empty() || rows > buckets.back();
    if (error != std::errc() || rows < 1 || rows > limits::kMaxTokens || !ascends ||
        buckets.size() == kMostBuckets)
      break;
    buckets.push_back(rows);
    if (stop == end) return {};
    if (*stop != ',') break;
    at = stop + 1;
  }
  return {StatusCode::kUsage,
          "'{}' is no list of ascending numbers from 1 to {} with commas between them", text,
          limits::kMaxTokens};
}

Status set_digest(const std::string& text, std::string& digest) {
  constexpr std::size_t kDigits = 64;
  if (text.size() != kDigits || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return {StatusCode::kUsage, "'{}' is not a digest of {} hex digits", text, kDigits};
  }
  digest = text;
  return {};
}

/// The key of the pads goes there in the clear.
Status check_dealer(const ModelOptions& options) {
  const std::string& text = options.private_mode.dealer_endpoint;
  auto dealer = parse_endpoint(text);
  if (!dealer.ok()) return dealer.status().with_context("--dealer-endpoint");
  if (!dealer->is_loopback() && options.dealer_key.empty()) {
    return {StatusCode::kUsage,
            "--dealer-endpoint {} is beyond this machine: the pads' key would cross in the clear; "
            "give --dealer-key and --key",
            text};
  }
  return check_two_servers(options.endpoint.empty() ? default_endpoint().text() : options.endpoint,
                           text);
}

}  // namespace

void declare_privacy(const CommandOptions& command, ModelOptions& options) {
  PrivacyOptions& privacy = options.private_mode;
  command.choice("--privacy", privacy.mode,
                 "plain: the server sees everything; otp-verify: it sees masked integers and "
                 "cannot alter a result; otp, verify: one of the two; otp-dealer: as otp-verify, a "
                 "second server helps; tee-only: no server (docs/PRIVACY.md)");
  const CommandOption dealer =
      command.text("--dealer-endpoint", privacy.dealer_endpoint,
                   "the gpu_server that makes the pads' products, with --privacy otp-dealer");
  (void)command
      .file("--dealer-key", options.dealer_key, "the public key of a dealer over tcp; with --key")
      .needs(dealer);
  command.choice<Int8Weights>("--int8-weights", privacy.int8_weights,
                              "of a private mode: w8, w16 (two int8 a weight), auto (w16 where w8 "
                              "is too coarse)",
                              kInt8Choices);
  command.parsed(
      "--pad-tokens", "N,N,...",
      "fill each op's rows up to the next of these numbers, so that the server sees no "
      "others; with a masked mode",
      [&privacy](const std::string& text) { return set_buckets(text, privacy.pad_tokens); });
  command.number("--decode-rows", privacy.decode_rows, std::int64_t{1}, std::int64_t{4096},
                 "passes of fewer rows show the server so many; with a masked mode");
  command.flag("--oblivious-embedding", privacy.oblivious_embedding,
               "read the whole embedding table for each token, so that no address tells which; "
               "with a private mode");
  command.parsed(
      "--model-digest", "HEX", "the digest that the model must have",
      [&options](const std::string& text) { return set_digest(text, options.model_digest); });
}

Status check_two_servers(const std::string& worker, const std::string& dealer) {
  const auto one = parse_endpoint(worker);
  const auto other = parse_endpoint(dealer);
  if (!one.ok() || !other.ok() || one->kind != other->kind) return {};
  bool is_same = one->text() == other->text();
  if (one->kind == Endpoint::Kind::kTcp) {
    is_same = is_same || (one->is_loopback() && one->port == other->port);
  } else {
    struct stat socket {};
    struct stat second {};
    is_same = is_same || (::stat(one->path.c_str(), &socket) == 0 &&
                          ::stat(other->path.c_str(), &second) == 0 &&
                          socket.st_dev == second.st_dev && socket.st_ino == second.st_ino);
  }
  if (!is_same) return {};
  return {StatusCode::kUsage,
          "--dealer-endpoint {} is the worker's: one server that has both undoes every pad",
          dealer};
}

Status settle_privacy(ModelOptions& options) {
  PrivacyOptions& privacy = options.private_mode;
  const std::string_view name = name_of(privacy.mode);
  const auto refuse = [](const char* text) { return Status(StatusCode::kUsage, text); };
  const bool is_dealt = privacy.mode == PrivacyMode::kOtpDealer;
  if (is_dealt == privacy.dealer_endpoint.empty()) {
    return is_dealt ? refuse(
                          "--privacy otp-dealer needs --dealer-endpoint: a gpu_server that is "
                          "not the worker's")
                    : refuse("--dealer-endpoint is of --privacy otp-dealer alone");
  }
  if (is_dealt) RETURN_IF_ERROR(check_dealer(options));
  if (!masks(privacy.mode) && (!privacy.pad_tokens.empty() || privacy.decode_rows > 0))
    return refuse("--pad-tokens and --decode-rows need a masked mode: --privacy otp-verify");
  const bool has_model = !options.model.empty() || !options.synthetic.empty();
  if (!has_model && !options.model_digest.empty())
    return refuse(
        "--model-digest is of a model of one's own: --model DIR or --synthetic CONFIG.json");
  if (!is_private(privacy.mode)) {
    if (privacy.oblivious_embedding)
      return refuse("--oblivious-embedding needs a private mode: --privacy otp-verify");
    return {};
  }
  if (!has_model) {
    return {StatusCode::kUsage,
            "--privacy {} needs the weights here: --model DIR or --synthetic CONFIG.json", name};
  }
  if (privacy.mode == PrivacyMode::kTeeOnly) {
    if (!options.endpoint.empty())
      return refuse("--privacy tee-only has no server: it takes no --endpoint");
    options.backend = BackendChoice::kLocal;
  } else if (options.backend == BackendChoice::kLocal) {
    return refuse(
        "--backend local has no server to hide from: --privacy tee-only computes the "
        "same integers here");
  }
  if (options.wire && *options.wire != DType::kF32)
    return refuse("--wire is not of a private mode, in which words of 32 bits cross");
  if (options.dtype)
    return refuse("--dtype is not of a private mode, whose weights are int8: --int8-weights");
  return check_tile(options);
}

}  // namespace airlock
