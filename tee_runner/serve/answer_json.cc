#include "tee_runner/serve/answer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "runtime/json/writer.h"

namespace airlock {
namespace {

using Null = std::optional<int>;

JsonObject describe(const ServedModel& model) {
  return {{"id", model.name()},
          {"object", "model"},
          {"created", model.created_s()},
          {"owned_by", "airlock"}};
}

JsonObject usage_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", JsonObject{{"cached_tokens", usage.cached_tokens}}}};
}

/// null for a part of a character: which bytes it is the text does not say.
std::optional<std::vector<int>> bytes_of(std::string_view text) {
  if (text.find("\xef\xbf\xbd") != std::string_view::npos) return std::nullopt;
  std::vector<int> bytes;
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

JsonObject chance_json(const TokenChance& chance) {
  return {{"token", chance.text},
          {"logprob", chance.log_probability},
          {"bytes", bytes_of(chance.text)}};
}

JsonObject chat_tokens(const std::vector<ShownToken>& tokens) {
  std::vector<JsonObject> content;
  for (const ShownToken& token : tokens) {
    std::vector<JsonObject> top;
    for (const TokenChance& chance : token.top) top.push_back(chance_json(chance));
    content.push_back(chance_json(token.chosen).add("top_logprobs", top));
  }
  return {{"content", content}, {"refusal", Null()}};
}

JsonObject text_tokens(const std::vector<ShownToken>& tokens) {
  std::vector<std::string> texts;
  std::vector<double> chances;
  std::vector<JsonObject> tops;
  std::vector<std::size_t> offsets;
  for (const ShownToken& token : tokens) {
    texts.push_back(token.chosen.text);
    chances.push_back(token.chosen.log_probability);
    JsonObject top;
    std::vector<std::string_view> seen;
    for (const TokenChance& chance : token.top) {
      // Parts of characters may read alike: the likeliest counts.
      if (std::ranges::find(seen, chance.text) != seen.end()) continue;
      seen.push_back(chance.text);
      top.add(chance.text, chance.log_probability);
    }
    tops.push_back(std::move(top));
    offsets.push_back(token.offset);
  }
  return {{"tokens", texts},
          {"token_logprobs", chances},
          {"top_logprobs", tops},
          {"text_offset", offsets}};
}

}  // namespace

AnswerJson::AnswerJson(const CompletionRequest& request, std::uint64_t id, std::int64_t created_s)
    : is_chat_(request.kind == CompletionKind::kChat),
      shows_tokens_(request.sampling.log_probabilities.has_value()),
      includes_usage_(request.include_usage),
      id_(fmt::format("{}-{:016x}", is_chat_ ? "chatcmpl" : "cmpl", id)),
      model_(request.model),
      created_s_(created_s) {}

std::string AnswerJson::head(std::string_view object) const {
  std::string text = JsonObject{
      {"id", id_},
      {"object", object},
      {"created", created_s_},
      {"model", model_}}.text();
  text.pop_back();
  return text;
}

std::string AnswerJson::whole(const std::vector<FinishedChoice>& choices,
                              const Usage& usage) const {
  std::vector<JsonObject> items;
  for (const FinishedChoice& choice : choices) {
    JsonObject item = {{"index", items.size()}};
    if (is_chat_) {
      item.add(
          "message",
          JsonObject{{"role", "assistant"}, {"content", choice.text.text}, {"refusal", Null()}});
    } else {
      item.add("text", choice.text.text);
    }
    std::optional<JsonObject> tokens;
    if (shows_tokens_)
      tokens = is_chat_ ? chat_tokens(choice.text.tokens) : text_tokens(choice.text.tokens);
    item.add("logprobs", tokens).add("finish_reason", choice.finish_reason);
    items.push_back(std::move(item));
  }
  const std::string rest =
      JsonObject{{"choices", items}, {"usage", usage_json(usage)}}.text().substr(1);
  return head(is_chat_ ? "chat.completion" : "text_completion") + ',' + rest;
}

std::string AnswerJson::chunk_of(const std::string& choice_json) const {
  std::string text = head(is_chat_ ? "chat.completion.chunk" : "text_completion");
  text += ",\"choices\":[" + choice_json + ']';
  if (includes_usage_) text += ",\"usage\":null";
  return text += '}';
}

std::string AnswerJson::first_chunk(std::size_t index) const {
  if (!is_chat_) return {};
  return chunk_of(JsonObject{
      {"index", index},
      {"delta", JsonObject{{"role", "assistant"}, {"content", ""}}},
      {"logprobs", Null()},
      {"finish_reason",
       Null()}}.text());
}

std::string AnswerJson::chunk(std::size_t index, const TextPiece& piece) const {
  JsonObject choice = {{"index", index}};
  if (is_chat_) {
    choice.add("delta", JsonObject{{"content", piece.text}});
  } else {
    choice.add("text", piece.text);
  }
  std::optional<JsonObject> tokens;
  if (shows_tokens_) tokens = is_chat_ ? chat_tokens(piece.tokens) : text_tokens(piece.tokens);
  return chunk_of(choice.add("logprobs", tokens).add("finish_reason", Null()).text());
}

std::string AnswerJson::last_chunk(std::size_t index, std::string_view finish_reason) const {
  JsonObject choice = {{"index", index}};
  if (is_chat_) {
    choice.add("delta", JsonObject());
  } else {
    choice.add("text", "");
  }
  return chunk_of(choice.add("logprobs", Null()).add("finish_reason", finish_reason).text());
}

std::string AnswerJson::usage_chunk(const Usage& usage) const {
  return head(is_chat_ ? "chat.completion.chunk" : "text_completion") + ",\"choices\":[]," +
         JsonObject{{"usage", usage_json(usage)}}.text().substr(1);
}

std::string models_json(const ServedModel& model) {
  return JsonObject{{"object", "list"}, {"data", std::vector{describe(model)}}}.text();
}

std::string model_json(const ServedModel& model) { return describe(model).text(); }

}  // namespace airlock
