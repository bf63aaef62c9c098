#include "tee_runner/serve/completion_request.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "tee_runner/chat/messages.h"
#include "tee_runner/generate/stop_scanner.h"
#include "tee_runner/serve/field_reader.h"

namespace airlock {
namespace {

constexpr std::size_t kMaxNameBytes = 512;
constexpr std::size_t kMaxPromptIds = std::size_t{1} << 20;

bool is_empty(const Json& json) {
  return (json.kind == Json::Kind::kArray || json.is_object()) && json.items.empty();
}
bool is_text(const Json& json, std::string_view text) {
  return json.is_string() && json.text == text;
}
bool is_false(const Json& json) { return json.kind == Json::Kind::kBool && !json.boolean; }

/// Of OpenAI's API, or of others that follow it, and not done here: with which values a field asks
/// for nothing.
struct Undone {
  std::string_view name;
  bool (*asks_for_nothing)(const Json& value);
};

constexpr std::array kUndone = {
    Undone{"audio", [](const Json&) { return false; }},
    Undone{"best_of",
           [](const Json& j) { return j.kind == Json::Kind::kInteger && j.integer == 1; }},
    Undone{"echo", is_false},
    Undone{"function_call", [](const Json& j) { return is_text(j, "none") || is_text(j, "auto"); }},
    Undone{"functions", is_empty},
    Undone{"logit_bias", is_empty},
    Undone{"metadata", is_empty},
    Undone{"modalities",
           [](const Json& j) {
             return j.kind == Json::Kind::kArray && j.items.size() == 1 &&
                    is_text(j.items[0], "text");
           }},
    Undone{"parallel_tool_calls", [](const Json& j) { return j.kind == Json::Kind::kBool; }},
    Undone{"prediction", [](const Json&) { return false; }},
    Undone{"reasoning_effort", [](const Json& j) { return is_text(j, "none"); }},
    Undone{"response_format",
           [](const Json& j) {
             return j.is_object() && j.items.size() == 1 && j.keys[0] == "type" &&
                    is_text(j.items[0], "text");
           }},
    Undone{"service_tier",
           [](const Json& j) { return is_text(j, "auto") || is_text(j, "default"); }},
    Undone{"store", is_false},
    Undone{"suffix", [](const Json& j) { return is_text(j, ""); }},
    Undone{"tool_choice", [](const Json& j) { return is_text(j, "none") || is_text(j, "auto"); }},
    Undone{"tools", is_empty},
    Undone{"verbosity", [](const Json&) { return false; }},
    Undone{"web_search_options", [](const Json&) { return false; }},
};

void set(auto& to, const auto& value) {
  if (value) to = *value;
}

// --- messages ---

std::optional<ChatRole> role_of(std::string_view name) {
  // The newer name of what a system message is.
  if (name == "developer") return ChatRole::kSystem;
  return from_name<ChatRole>(name);
}

void append_text(const FieldReader& value, std::size_t& left_bytes, std::string& out) {
  const std::string* const text = value.text(kMaxChatBytes);
  if (text == nullptr) return;
  if (text->size() > left_bytes)
    return value.refuse("makes the conversation longer than what is taken");
  left_bytes -= text->size();
  out += *text;
}

void read_part(const FieldReader& part, std::size_t& left_bytes, std::string& out) {
  if (!part.json().is_object()) return part.refuse("has to be an object");
  const Json* const type = part.json().find("type");
  const Json* const text = part.json().find("text");
  if (type == nullptr || !is_text(*type, "text"))
    return part.refuse("has to be of the type 'text': no other parts are taken");
  if (text == nullptr) return part.refuse("has no 'text'");
  for (const std::string& key : part.json().keys) {
    if (key != "type" && key != "text")
      return part.member(part.json(), key).refuse("is not known here");
  }
  append_text(part.member(*text, "text"), left_bytes, out);
}

void read_content(const FieldReader& value, std::size_t& left_bytes, std::string& out) {
  if (value.json().kind != Json::Kind::kArray) {
    if (!value.json().is_string()) return value.refuse("has to be a text or an array of parts");
    return append_text(value, left_bytes, out);
  }
  if (!value.is_array(kMaxContentParts)) return;
  for (std::size_t i = 0; i < value.json().items.size() && value.ok(); ++i)
    read_part(value.item(i), left_bytes, out);
}

void read_message(const FieldReader& item, std::size_t& left_bytes, ChatMessage& message) {
  const Json& json = item.json();
  if (!json.is_object()) return item.refuse("has to be an object");
  const Json* const role = json.find("role");
  const std::optional<ChatRole> known =
      role != nullptr && role->is_string() ? role_of(role->text) : std::nullopt;
  if (!known) {
    return item.member(json, "role")
        .refuse("has to be 'system', 'developer', 'user' or 'assistant'");
  }
  message.role = *known;
  for (std::size_t i = 0; i < json.keys.size() && item.ok(); ++i) {
    const FieldReader member = item.member(json.items[i], json.keys[i]);
    if (json.keys[i] == "role") continue;
    if (json.keys[i] == "content") {
      read_content(member, left_bytes, message.content);
    } else if (!member.is_null() && !is_empty(json.items[i])) {
      // What a client keeps of an earlier answer: "refusal": null, "tool_calls": [].
      member.refuse("is not supported");
    }
  }
  if (item.ok() && json.find("content") == nullptr) item.refuse("has no 'content'");
}

/// What reading the fields of one body needs.
class Reading {
 public:
  Reading(CompletionRequest& request, ApiError& error) : request_(request), error_(error) {}

  void read(const Json& body) {
    const FieldReader root(body, "", error_);
    if (!body.is_object()) return root.refuse("has to be a JSON object");
    for (std::size_t i = 0; i < body.keys.size() && root.ok(); ++i)
      field(body.keys[i], root.member(body.items[i], body.keys[i]));
    if (root.ok()) check(root);
  }

 private:
  using Read = void (Reading::*)(const FieldReader&);
  enum class Of : std::uint8_t { kBoth, kText, kChat };
  struct Known {
    std::string_view name;
    Of of;
    Read read;
  };

  bool is_chat() const { return request_.kind == CompletionKind::kChat; }

  void field(const std::string& key, const FieldReader& value) {
    static constexpr std::array kKnown = {
        Known{"model", Of::kBoth, &Reading::model},
        Known{"messages", Of::kChat, &Reading::messages},
        Known{"prompt", Of::kText, &Reading::prompt},
        Known{"max_tokens", Of::kBoth, &Reading::max_tokens},
        Known{"max_completion_tokens", Of::kChat, &Reading::max_completion_tokens},
        Known{"temperature", Of::kBoth, &Reading::temperature},
        Known{"top_p", Of::kBoth, &Reading::top_p},
        Known{"top_k", Of::kBoth, &Reading::top_k},
        Known{"min_p", Of::kBoth, &Reading::min_p},
        Known{"repetition_penalty", Of::kBoth, &Reading::repetition_penalty},
        Known{"presence_penalty", Of::kBoth, &Reading::presence_penalty},
        Known{"frequency_penalty", Of::kBoth, &Reading::frequency_penalty},
        Known{"seed", Of::kBoth, &Reading::seed},
        Known{"stop", Of::kBoth, &Reading::stop},
        Known{"n", Of::kBoth, &Reading::choices},
        Known{"stream", Of::kBoth, &Reading::stream},
        Known{"stream_options", Of::kBoth, &Reading::stream_options},
        Known{"logprobs", Of::kBoth, &Reading::logprobs},
        Known{"top_logprobs", Of::kChat, &Reading::top_logprobs},
        Known{"user", Of::kBoth, &Reading::ignored},
        Known{"safety_identifier", Of::kChat, &Reading::ignored},
        Known{"prompt_cache_key", Of::kChat, &Reading::ignored},
    };
    const auto known = std::ranges::find(kKnown, key, &Known::name);
    if (known != kKnown.end() &&
        (known->of == Of::kBoth || (known->of == Of::kChat) == is_chat())) {
      if (!value.is_null()) (this->*known->read)(value);
      return;
    }
    const auto undone = std::ranges::find(kUndone, key, &Undone::name);
    if (undone == kUndone.end()) return value.refuse("is not known here", "unknown_parameter");
    if (!value.is_null() && !undone->asks_for_nothing(value.json()))
      value.refuse("is not supported", "unsupported_parameter");
  }

  void check(const FieldReader& root) {
    const auto missing = [&](std::string_view key) {
      root.member(root.json(), key).refuse("is missing");
    };
    if (request_.model.empty()) return missing("model");
    if (is_chat() && request_.messages.empty()) return missing("messages");
    if (!is_chat() && !has_prompt_) return missing("prompt");
    if (has_stream_options_ && !request_.stream)
      return root.member(root.json(), "stream_options").refuse("needs 'stream'");
    if (is_chat() && top_logprobs_ && !wants_logprobs_)
      return root.member(root.json(), "top_logprobs").refuse("needs 'logprobs'");
    if (is_chat() && wants_logprobs_)
      request_.sampling.log_probabilities = static_cast<int>(top_logprobs_.value_or(0));
    if (!is_chat() && !request_.max_tokens) request_.max_tokens = kDefaultTextTokens;
  }

  void model(const FieldReader& value) {
    if (const std::string* const text = value.text(kMaxNameBytes)) request_.model = *text;
    if (request_.model.empty()) value.refuse("is empty");
  }

  void messages(const FieldReader& value) {
    if (!value.is_array(kMaxChatMessages)) return;
    const std::size_t count = value.json().items.size();
    if (count == 0) return value.refuse("has no message");
    std::size_t left_bytes = kMaxChatBytes;
    for (std::size_t i = 0; i < count && value.ok(); ++i)
      read_message(value.item(i), left_bytes, request_.messages.emplace_back());
  }

  void prompt(const FieldReader& value) {
    has_prompt_ = true;
    const Json& json = value.json();
    if (json.is_string()) {
      if (const std::string* const text = value.text(kMaxChatBytes)) request_.prompt = *text;
      return;
    }
    if (json.kind != Json::Kind::kArray || json.items.empty())
      return value.refuse("has to be a text or an array of token ids, and is not empty");
    if (json.items[0].kind != Json::Kind::kInteger) {
      // One prompt in an array, as clients for many send it.
      const bool is_list = json.items[0].is_string() || json.items[0].kind == Json::Kind::kArray;
      if (json.items.size() > 1 || !is_list || depth_++ > 0)
        return value.refuse("has to be one text or one array of token ids");
      return prompt(value.item(0));
    }
    if (!value.is_array(kMaxPromptIds)) return;
    for (std::size_t i = 0; i < json.items.size(); ++i) {
      const Json& id = json.items[i];
      if (id.kind != Json::Kind::kInteger || id.integer < 0 ||
          id.integer > std::numeric_limits<std::int32_t>::max()) {
        return value.item(i).refuse("is not a token id");
      }
      request_.prompt_ids.push_back(static_cast<std::int32_t>(id.integer));
    }
  }

  void max_tokens(const FieldReader& value) {
    if (const auto tokens = value.integer(is_chat() ? 1 : 0, kMostAskedTokens)) {
      if (request_.max_tokens && *request_.max_tokens != *tokens)
        return value.refuse("and 'max_completion_tokens' differ");
      request_.max_tokens = tokens;
    }
  }
  void max_completion_tokens(const FieldReader& value) {
    if (const auto tokens = value.integer(1, kMostAskedTokens)) {
      if (request_.max_tokens && *request_.max_tokens != *tokens)
        return value.refuse("and 'max_tokens' differ");
      request_.max_tokens = tokens;
    }
  }

  void temperature(const FieldReader& value) {
    set(request_.sampling.temperature, value.number(0, 2));
  }
  void positive(double& to, const FieldReader& value, double most) {
    const auto number = value.number(0, most);
    if (number == 0) return value.refuse("has to be over 0");
    set(to, number);
  }
  void top_p(const FieldReader& value) { positive(request_.sampling.top_p, value, 1); }
  void top_k(const FieldReader& value) {
    // -1 is what others call 0: all of them.
    if (const auto count = value.integer(-1, SamplingSettings::kMaxTopK))
      request_.sampling.top_k = std::max<std::int64_t>(*count, 0);
  }
  void min_p(const FieldReader& value) { set(request_.sampling.min_p, value.number(0, 1)); }
  void repetition_penalty(const FieldReader& value) {
    positive(request_.sampling.repetition_penalty, value, 2);
  }
  void presence_penalty(const FieldReader& value) {
    set(request_.sampling.presence_penalty, value.number(-2, 2));
  }
  void frequency_penalty(const FieldReader& value) {
    set(request_.sampling.frequency_penalty, value.number(-2, 2));
  }
  void seed(const FieldReader& value) {
    constexpr auto kLimits = std::numeric_limits<std::int64_t>();
    if (const auto number = value.integer(kLimits.min(), kLimits.max()))
      request_.seed = static_cast<std::uint64_t>(*number);
  }

  void stop(const FieldReader& value) {
    const auto add = [this](const FieldReader& each) {
      const std::string* const text = each.text(kMaxStopBytes);
      if (text == nullptr) return;
      if (text->empty()) return each.refuse("is empty");
      request_.stop.push_back(*text);
    };
    if (value.json().is_string()) return add(value);
    if (!value.is_array(kMaxStops)) return;
    for (std::size_t i = 0; i < value.json().items.size() && value.ok(); ++i) add(value.item(i));
  }

  void choices(const FieldReader& value) {
    if (const auto count = value.integer(1, kMaxChoices))
      request_.choices = static_cast<std::size_t>(*count);
  }
  void stream(const FieldReader& value) { set(request_.stream, value.boolean()); }

  void stream_options(const FieldReader& value) {
    has_stream_options_ = true;
    const Json& json = value.json();
    if (!json.is_object()) return value.refuse("has to be an object");
    for (std::size_t i = 0; i < json.keys.size() && value.ok(); ++i) {
      const FieldReader member = value.member(json.items[i], json.keys[i]);
      if (member.is_null()) continue;
      if (json.keys[i] == "include_usage") {
        set(request_.include_usage, member.boolean());
      } else if (json.keys[i] != "include_obfuscation" || !is_false(json.items[i])) {
        member.refuse("is not supported", "unsupported_parameter");
      }
    }
  }

  void logprobs(const FieldReader& value) {
    if (is_chat()) return set(wants_logprobs_, value.boolean());
    if (const auto count = value.integer(0, SamplingSettings::kMaxLogProbabilities))
      request_.sampling.log_probabilities = static_cast<int>(*count);
  }
  void top_logprobs(const FieldReader& value) {
    top_logprobs_ = value.integer(0, SamplingSettings::kMaxLogProbabilities);
    if (top_logprobs_ == 0) top_logprobs_.reset();
  }
  void ignored(const FieldReader& value) { value.text(kMaxNameBytes); }

  CompletionRequest& request_;
  ApiError& error_;
  bool has_prompt_ = false;
  bool has_stream_options_ = false;
  bool wants_logprobs_ = false;
  std::optional<std::int64_t> top_logprobs_;
  int depth_ = 0;
};

}  // namespace

std::optional<CompletionRequest> read_completion_request(std::string_view body, CompletionKind kind,
                                                         ApiError& error) {
  const auto json = parse_json(body, "body");
  if (json.status().code() == StatusCode::kResourceExhausted) {
    error = api_error(json.status());
    return std::nullopt;
  }
  if (!json.ok()) {
    // The reader's own words show what lies around the fault.
    error = {
        .message = "the body is not one JSON value of objects with distinct keys, nested at most " +
                   std::to_string(kMaxJsonDepth) + " deep",
        .code = "invalid_json"};
    return std::nullopt;
  }
  std::optional<CompletionRequest> request(std::in_place);
  request->kind = kind;
  error.message.clear();
  Reading(*request, error).read(*json);
  if (!error.message.empty()) request.reset();
  return request;
}

}  // namespace airlock
