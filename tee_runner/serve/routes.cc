#include "tee_runner/serve/routes.h"

#include <algorithm>

namespace airlock {
namespace {

constexpr std::string_view kModelPrefix = "/v1/models/";

std::string_view path_of(std::string_view target) { return target.substr(0, target.find('?')); }

Route route_of(std::string_view path) {
  for (const Route route : kValuesOf<Route>) {
    if (route != Route::kModel && route != Route::kOther && name_of(route) == path) return route;
  }
  return path.starts_with(kModelPrefix) && path.size() > kModelPrefix.size() ? Route::kModel
                                                                             : Route::kOther;
}

bool is_post(Route route) { return route == Route::kCompletions || route == Route::kChat; }

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, lower, lower);
}

/// Without what follows a ';', and blanks.
std::string_view media_type(std::string_view field) {
  field = field.substr(0, field.find(';'));
  while (!field.empty() && (field.back() == ' ' || field.back() == '\t')) field.remove_suffix(1);
  return field;
}

/// "HOST" of "HOST:PORT".
std::string_view without_port(std::string_view host) {
  const std::size_t colon = host.rfind(':');
  const std::size_t bracket = host.rfind(']');
  const bool has_port =
      colon != std::string_view::npos && (bracket == std::string_view::npos || bracket < colon);
  return has_port ? host.substr(0, colon) : host;
}

bool is_loopback_name(std::string_view host) {
  const auto is_number = [](char c) { return (c >= '0' && c <= '9') || c == '.'; };
  return equals_ignoring_case(host, "localhost") || host == "[::1]" ||
         (host.starts_with("127.") && std::ranges::all_of(host, is_number));
}

/// A page from elsewhere that a browser on this machine shows must not ask in its user's name,
/// neither by a name of its own that leads here nor directly. Where there are keys it has none.
std::optional<ApiError> check_origin(const RequestHead& head, const HttpSettings& settings) {
  if (settings.keys) return std::nullopt;
  if (settings.is_loopback && !is_loopback_name(without_port(head.host))) {
    return ApiError{.status = 403,
                    .message =
                        "without API keys the Host header has to name this machine: "
                        "localhost or a loopback address",
                    .code = "wrong_host"};
  }
  const std::size_t scheme = head.origin.find("://");
  const bool is_own =
      head.origin.empty() || (scheme != std::string_view::npos &&
                              equals_ignoring_case(head.origin.substr(scheme + 3), head.host));
  if (is_own) return std::nullopt;
  return ApiError{.status = 403,
                  .message = "without API keys pages of other origins are not answered",
                  .code = "wrong_origin"};
}

ApiError no_key(std::string_view why) {
  return {.status = 401,
          .message = std::string(why),
          .type = "authentication_error",
          .code = "invalid_api_key"};
}

/// Fills in the owner.
std::optional<ApiError> check_key(const RequestHead& head, const HttpSettings& settings,
                                  std::string& owner) {
  constexpr std::string_view kScheme = "bearer ";
  if (head.authorization.size() <= kScheme.size() ||
      !equals_ignoring_case(head.authorization.substr(0, kScheme.size()), kScheme))
    return no_key("no API key: send Authorization: Bearer KEY");
  const auto found = settings.keys->owner_of(head.authorization.substr(kScheme.size()));
  if (!found) return no_key("this API key is not known here");
  owner = "key:" + *found;
  return std::nullopt;
}

std::optional<ApiError> check_rights(const RequestHead& head, const HttpSettings& settings,
                                     Admission& admission) {
  switch (admission.route) {
    case Route::kHealth:
    case Route::kReady:
    case Route::kPage:
    case Route::kOther:
      return std::nullopt;
    case Route::kMetrics:
      if (head.from_loopback) return std::nullopt;
      if (!settings.keys) {
        return ApiError{.status = 403,
                        .message = "without API keys metrics are for this machine alone"};
      }
      break;
    default:
      if (!settings.keys) return std::nullopt;
  }
  return check_key(head, settings, admission.owner);
}

std::optional<ApiError> check_body(const RequestHead& head, bool wanted) {
  if (!wanted) {
    if (!head.has_body) return std::nullopt;
    return ApiError{.message = "a GET has no body"};
  }
  // Also what makes a browser ask first whether another origin's page may.
  if (!equals_ignoring_case(media_type(head.content_type), "application/json")) {
    return ApiError{.status = 415, .message = "the Content-Type has to be application/json"};
  }
  if (head.content_encoding.empty() || equals_ignoring_case(head.content_encoding, "identity"))
    return std::nullopt;
  return ApiError{.status = 415, .message = "a Content-Encoding is not taken"};
}

}  // namespace

Admission admit(const RequestHead& head, const HttpSettings& settings) {
  Admission admission;
  admission.route = route_of(path_of(head.target));
  const bool post = is_post(admission.route);
  admission.refusal = check_origin(head, settings);
  if (admission.refusal) return admission;
  if (admission.route == Route::kOther) {
    admission.refusal =
        ApiError{.status = 404, .message = "there is nothing at this path", .code = "not_found"};
    return admission;
  }
  admission.refusal = check_rights(head, settings, admission);
  if (admission.refusal) return admission;
  if (head.method != (post ? "POST" : "GET") && (post || head.method != "HEAD")) {
    admission.allow = post ? "POST" : "GET, HEAD";
    admission.refusal =
        ApiError{.status = 405, .message = post ? "this path takes POST" : "this path takes GET"};
    return admission;
  }
  admission.refusal = check_body(head, post);
  return admission;
}

std::string_view model_in(std::string_view target) {
  return path_of(target).substr(kModelPrefix.size());
}

}  // namespace airlock
