#include "tee_runner/serve/serve_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace airlock {
namespace {

Status parsed(std::vector<const char*> words, ServeOptions& options) {
  CommandLine line("serve", "");
  declare_serve(line.options(), options);
  words.insert(words.begin(), "serve");
  const auto asked = line.parse(static_cast<int>(words.size()), words.data());
  RETURN_IF_ERROR(asked.status());
  return check(options);
}

StatusCode code_of(const std::vector<const char*>& words) {
  ServeOptions options;
  return parsed(words, options).code();
}

TEST(ServeOptions, default_is_loopback_without_tls_and_keys) {
  ServeOptions options;
  ASSERT_TRUE(parsed({}, options).ok());
  const auto settings = http_settings(options);
  ASSERT_TRUE(settings.ok());
  EXPECT_EQ(settings->host, "127.0.0.1");
  EXPECT_EQ(settings->port, 8000);
  EXPECT_TRUE(settings->is_loopback);
  EXPECT_FALSE(settings->tls || settings->keys);
}

TEST(ServeOptions, beyond_loopback_needs_tls) {
  for (const char* address : {"0.0.0.0:8000", "192.0.2.1:1", "[::]:8000", "*:8000"}) {
    EXPECT_EQ(code_of({"--listen", address}), StatusCode::kUsage) << address;
    EXPECT_EQ(code_of({"--listen", address, "--tls-self-signed"}), StatusCode::kOk) << address;
  }
  for (const char* address : {"127.0.0.1:0", "localhost:8000", "[::1]:8000", "127.1.2.3:80"})
    EXPECT_EQ(code_of({"--listen", address}), StatusCode::kOk) << address;
}

TEST(ServeOptions, address_is_numeric_with_a_port) {
  for (const char* address : {"", "8000", "127.0.0.1", "example.org:80", "127.0.0.1:x", ":80",
                              "127.0.0.1:65536", "127.0.0.1:-1", "[::1]", "::1:80"})
    EXPECT_EQ(code_of({"--listen", address, "--tls-self-signed"}), StatusCode::kUsage) << address;
}

TEST(ServeOptions, notice_is_a_part_of_the_drain) {
  EXPECT_EQ(code_of({"--drain-seconds", "2.5", "--notice-seconds", "2.5"}), StatusCode::kOk);
  EXPECT_EQ(code_of({"--drain-seconds", "2", "--notice-seconds", "2.5"}), StatusCode::kUsage);
  EXPECT_EQ(code_of({"--notice-seconds", "31"}), StatusCode::kUsage);
  for (const char* bad : {"-1", "3601", "x", "", "1e9", "nan"})
    EXPECT_EQ(code_of({"--drain-seconds", bad}), StatusCode::kUsage) << bad;
}

TEST(ServeOptions, certificate_and_key_come_together_or_are_made) {
  EXPECT_EQ(code_of({"--tls-cert", "a"}), StatusCode::kUsage);
  EXPECT_EQ(code_of({"--tls-key", "a"}), StatusCode::kUsage);
  EXPECT_EQ(code_of({"--tls-cert", "a", "--tls-key", "b", "--tls-self-signed"}),
            StatusCode::kUsage);
  EXPECT_EQ(code_of({"--tls-cert", "a", "--tls-key", "b"}), StatusCode::kOk);
}

}  // namespace
}  // namespace airlock
