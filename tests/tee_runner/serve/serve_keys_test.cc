#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <string>

#include "tee_runner/serve/api_keys.h"
#include "tee_runner/serve/tls_material.h"
#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr std::string_view kOne = "key-one-0123456789";
constexpr std::string_view kTwo = "key-two-0123456789";

std::string write(const TempDir& folder, const std::string& text, mode_t mode) {
  const std::string path = folder.file("file");
  std::ofstream(path) << text;
  ::chmod(path.c_str(), mode);
  return path;
}

TEST(ApiKeys, have_names_or_the_numbers_of_their_lines) {
  const auto keys = ApiKeys::parse(fmt::format("# ours\n\nanna {}\r\n  {}\n", kOne, kTwo), "keys");
  ASSERT_TRUE(keys.ok()) << keys.status().message();
  EXPECT_EQ(keys->owner_of(kOne), "anna");
  EXPECT_EQ(keys->owner_of(kTwo), "line-4");
  EXPECT_EQ(keys->owner_of("key-three-0123456789"), std::nullopt);
  EXPECT_EQ(keys->owner_of(""), std::nullopt);
  EXPECT_EQ(keys->owner_of(kOne.substr(1)), std::nullopt);
}

TEST(ApiKeys, refusals_name_the_line_and_not_the_key) {
  for (const std::string& text :
       {std::string(), std::string("# nothing\n"), std::string("short"), std::string(600, 'k'),
        fmt::format("a b {}", kOne), fmt::format("{}\nx {}", kOne, kOne),
        fmt::format("a {}\na {}", kOne, kTwo), std::string("a k\xc3\xa4y-0123456789012345")}) {
    const auto keys = ApiKeys::parse(text, "keys");
    ASSERT_FALSE(keys.ok()) << text;
    EXPECT_EQ(keys.status().code(), StatusCode::kInvalidInput);
    EXPECT_THAT(keys.status().message(), Not(HasSubstr("0123456789")));
  }
}

TEST(ApiKeys, file_that_others_may_read_is_refused) {
  const TempDir folder;
  const std::string text(kOne);
  EXPECT_TRUE(ApiKeys::read(write(folder, text, 0600)).ok());
  for (const mode_t mode : {0644, 0640, 0602})
    EXPECT_THAT(ApiKeys::read(write(folder, text, mode)).status().message(), HasSubstr("chmod"));
  EXPECT_FALSE(ApiKeys::read(folder.file("missing")).ok());
}

TEST(TlsMaterial, self_signed_is_new_each_time_and_reads_back) {
  const auto one = TlsMaterial::self_signed("10.0.0.1");
  const auto two = TlsMaterial::self_signed("example.org");
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_NE(one->fingerprint, two->fingerprint);
  EXPECT_EQ(one->fingerprint.size(), 64U);
  const TempDir folder;
  std::ofstream(folder.file("cert")) << one->certificate_pem;
  const std::string key = write(folder, one->key_pem, 0600);
  const auto read = TlsMaterial::read(folder.file("cert"), key);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->fingerprint, one->fingerprint);
}

TEST(TlsMaterial, files_that_do_not_fit_are_refused) {
  const auto one = TlsMaterial::self_signed("127.0.0.1");
  const auto two = TlsMaterial::self_signed("127.0.0.1");
  const TempDir folder;
  const std::string cert = folder.file("cert");
  std::ofstream(cert) << one->certificate_pem;
  EXPECT_THAT(TlsMaterial::read(cert, write(folder, two->key_pem, 0600)).status().message(),
              HasSubstr("is not the key"));
  EXPECT_THAT(TlsMaterial::read(cert, write(folder, one->key_pem, 0644)).status().message(),
              HasSubstr("chmod"));
  EXPECT_THAT(TlsMaterial::read(cert, write(folder, "no key", 0600)).status().message(),
              HasSubstr("no private key"));
  const std::string key = write(folder, one->key_pem, 0600);
  EXPECT_THAT(TlsMaterial::read(key, key).status().message(), HasSubstr("no certificate"));
}

}  // namespace
}  // namespace airlock
