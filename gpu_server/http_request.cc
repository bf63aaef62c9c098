#include "gpu_server/http_request.h"

#include <algorithm>

namespace airlock {
namespace {

/// Where the head ends, behind an empty line; npos: not yet.
std::size_t head_end(std::string_view text) {
  const std::size_t strict = text.find("\r\n\r\n");
  const std::size_t bare = text.find("\n\n");
  return std::min(strict, bare);
}

std::string_view path_of(std::string_view target) {
  constexpr std::string_view kScheme = "http://";
  if (target.starts_with(kScheme)) {
    target.remove_prefix(kScheme.size());
    const std::size_t slash = target.find('/');
    if (slash == std::string_view::npos) return "/";
    target.remove_prefix(slash);
  }
  return target.substr(0, target.find_first_of("?#"));
}

bool is_token(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' || c == '_';
  });
}

bool is_visible(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c > ' ' && c < 0x7f; });
}

}  // namespace

HttpRequest read_http_request(std::string_view received) {
  HttpRequest request;
  // A client may send empty lines first.
  const std::size_t first = received.find_first_not_of("\r\n");
  const std::string_view text =
      first == std::string_view::npos ? std::string_view() : received.substr(first);
  if (head_end(text) == std::string_view::npos) {
    if (received.size() > kMaxHttpHeadBytes) request.state = HttpRequest::State::kTooLong;
    return request;
  }
  std::string_view line = text.substr(0, text.find('\n'));
  if (line.ends_with('\r')) line.remove_suffix(1);
  const std::size_t target = line.find(' ') + 1;
  const std::size_t version = line.rfind(' ') + 1;
  request.state = HttpRequest::State::kMalformed;
  // 0: there is no blank.
  if (target == 0 || version == target) return request;
  const std::string_view protocol = line.substr(version);
  if (!protocol.starts_with("HTTP/") || protocol.size() != 8 || protocol[6] != '.') return request;
  const std::string_view method = line.substr(0, target - 1);
  const std::string_view wanted = line.substr(target, version - 1 - target);
  if (!is_token(method) || !is_visible(wanted)) return request;
  if (protocol[5] != '1') {
    request.state = HttpRequest::State::kOtherVersion;
    return request;
  }
  request.state = HttpRequest::State::kComplete;
  request.method = method;
  request.path = path_of(wanted);
  return request;
}

}  // namespace airlock
