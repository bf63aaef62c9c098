#include "tee_runner/serve/routes.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace airlock {
namespace {

constexpr std::string_view kKey = "key-one-0123456789";

HttpSettings with_keys() {
  HttpSettings settings;
  settings.keys = std::move(ApiKeys::parse("anna " + std::string(kKey), "keys")).value();
  return settings;
}

RequestHead get(std::string_view target) {
  RequestHead head;
  head.method = "GET";
  head.target = target;
  head.host = "127.0.0.1:8000";
  head.from_loopback = true;
  return head;
}
RequestHead post(std::string_view target) {
  RequestHead head = get(target);
  head.method = "POST";
  head.content_type = "application/json";
  head.has_body = true;
  return head;
}

int status_of(const RequestHead& head, const HttpSettings& settings = {}) {
  const Admission admission = admit(head, settings);
  return admission.refusal ? admission.refusal->status : 200;
}

TEST(Routes, are_found_by_path) {
  EXPECT_EQ(admit(get("/healthz?x=1"), {}).route, Route::kHealth);
  EXPECT_EQ(admit(get("/v1/models/a"), {}).route, Route::kModel);
  EXPECT_EQ(admit(post("/v1/chat/completions"), {}).route, Route::kChat);
  EXPECT_EQ(status_of(get("/v1/models/")), 404);
  EXPECT_EQ(status_of(get("/other")), 404);
  EXPECT_EQ(status_of(get("other")), 404);
  EXPECT_EQ(model_in("/v1/models/a/b?c"), "a/b");
}

TEST(Routes, other_methods_are_405_with_those_that_are_allowed) {
  RequestHead head = get("/v1/completions");
  EXPECT_EQ(status_of(head), 405);
  EXPECT_EQ(admit(head, {}).allow, "POST");
  head = get("/");
  head.method = "OPTIONS";
  EXPECT_EQ(status_of(head), 405);
  head.method = "HEAD";
  EXPECT_EQ(status_of(head), 200);
}

TEST(Routes, body_is_json_and_nothing_else) {
  RequestHead head = post("/v1/completions");
  EXPECT_EQ(status_of(head), 200);
  head.content_type = "Application/JSON ; charset=utf-8";
  EXPECT_EQ(status_of(head), 200);
  for (const std::string_view type : {"", "text/plain", "application/jsonx"}) {
    head.content_type = type;
    EXPECT_EQ(status_of(head), 415);
  }
  head = post("/v1/completions");
  head.content_encoding = "gzip";
  EXPECT_EQ(status_of(head), 415);
  head = get("/");
  head.has_body = true;
  EXPECT_EQ(status_of(head), 400);
}

TEST(Routes, keys_are_asked_for_answers_and_not_for_health) {
  const HttpSettings settings = with_keys();
  RequestHead head = post("/v1/chat/completions");
  EXPECT_EQ(status_of(head, settings), 401);
  head.authorization = "Bearer wrong-0123456789abc";
  EXPECT_EQ(status_of(head, settings), 401);
  head.authorization = "Basic key-one-0123456789";
  EXPECT_EQ(status_of(head, settings), 401);
  head.authorization = "bearer key-one-0123456789";
  EXPECT_EQ(status_of(head, settings), 200);
  EXPECT_EQ(admit(head, settings).owner, "key:anna");
  EXPECT_EQ(status_of(get("/v1/models"), settings), 401);
  for (const std::string_view path : {"/", "/healthz", "/readyz"})
    EXPECT_EQ(status_of(get(path), settings), 200);
}

TEST(Routes, metrics_are_for_this_machine_or_for_a_key) {
  RequestHead head = get("/metrics");
  EXPECT_EQ(status_of(head), 200);
  EXPECT_EQ(status_of(head, with_keys()), 200);
  head.from_loopback = false;
  HttpSettings open;
  open.is_loopback = false;
  EXPECT_EQ(status_of(head, open), 403);
  EXPECT_EQ(status_of(head, with_keys()), 401);
  head.authorization = "Bearer key-one-0123456789";
  EXPECT_EQ(status_of(head, with_keys()), 200);
}

TEST(Routes, without_keys_pages_from_elsewhere_are_not_answered) {
  RequestHead head = post("/v1/completions");
  for (const std::string_view host :
       {"evil.example:8000", "evil.example", "", "127.evil.example"}) {
    head.host = host;
    EXPECT_EQ(status_of(head), 403) << host;
    RequestHead page = get("/");
    page.host = host;
    EXPECT_EQ(status_of(page), 403) << host;
  }
  for (const std::string_view host : {"localhost:8000", "LOCALHOST", "[::1]:8000", "127.0.0.2"}) {
    head.host = host;
    EXPECT_EQ(status_of(head), 200) << host;
  }
  head.host = "localhost:8000";
  head.origin = "http://localhost:8000";
  EXPECT_EQ(status_of(head), 200);
  for (const std::string_view origin : {"http://localhost:8001", "https://evil.example", "null"}) {
    head.origin = origin;
    EXPECT_EQ(status_of(head), 403) << origin;
  }
  // What has a key was sent by whoever has it.
  head.authorization = "Bearer key-one-0123456789";
  EXPECT_EQ(status_of(head, with_keys()), 200);
}

}  // namespace
}  // namespace airlock
