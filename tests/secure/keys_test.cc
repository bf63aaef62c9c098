#include "runtime/secure/keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>

#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

using ::testing::HasSubstr;

class Keys : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_.file(name); }
  std::string file(const std::string& name, const std::string& text) const {
    write_all(path(name), text);
    ::chmod(path(name).c_str(), 0600);
    return path(name);
  }

 private:
  TempDir folder_;
};

TEST_F(Keys, are_read_as_they_were_written) {
  const SecretKey made = SecretKey::make("alice").value();
  ASSERT_TRUE(made.write(path("alice.key")).ok());
  struct stat info {};
  ASSERT_EQ(::stat(path("alice.key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  const SecretKey read = SecretKey::read(path("alice.key")).value();
  EXPECT_EQ(read.public_key(), made.public_key());
  EXPECT_EQ(read.public_key().name, "alice");
  EXPECT_FALSE(SecretKey::make("bob")->public_key() == made.public_key());
}

TEST_F(Keys, are_not_replaced) {
  const SecretKey made = SecretKey::make("alice").value();
  ASSERT_TRUE(made.write(path("alice.key")).ok());
  EXPECT_EQ(SecretKey::make("alice")->write(path("alice.key")).code(), StatusCode::kInUse);
  EXPECT_EQ(SecretKey::read(path("alice.key"))->public_key(), made.public_key());
}

TEST_F(Keys, that_others_may_read_are_refused) {
  ASSERT_TRUE(SecretKey::make("alice")->write(path("alice.key")).ok());
  ::chmod(path("alice.key").c_str(), 0640);
  const auto read = SecretKey::read(path("alice.key"));
  EXPECT_EQ(read.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(read.status().message(), HasSubstr("chmod 600"));
}

TEST_F(Keys, of_another_kind_or_damaged_are_refused) {
  // An X25519 key in PKCS #8, and what is none.
  const std::string other =
      "-----BEGIN PRIVATE KEY-----\n"
      "MC4CAQAwBQYDK2VuBCIEIFclnoMXGksw0WJNjnZ1B+PYROTu41Ijiu1uvgcURfSi\n"
      "-----END PRIVATE KEY-----\n";
  for (const std::string& text : {other, std::string("hello"), std::string()}) {
    const auto read = SecretKey::read(file("bad.key", text));
    EXPECT_EQ(read.status().code(), StatusCode::kInvalidInput) << text;
    EXPECT_THAT(read.status().message(), HasSubstr("bad.key"));
  }
  EXPECT_EQ(SecretKey::read(path("none")).status().code(), StatusCode::kInvalidInput);
}

TEST_F(Keys, have_one_text) {
  // RFC 8032, "Test Vectors for Ed25519", test 1: the public key.
  const std::string line = "ed25519 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= a";
  const PublicKey key = PublicKey::parse(line).value();
  EXPECT_EQ(key.bytes[0], std::byte{0xd7});
  EXPECT_EQ(key.bytes[31], std::byte{0x1a});
  EXPECT_EQ(key.line(), line);
  EXPECT_EQ(PublicKey::parse("\t" + line + " \r")->line(), line);
  for (const std::string bad : {
           "",
           "ed25519",
           "rsa 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= a",
           "ed25519 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHUR= a",   // short
           "ed25519 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURp= a",  // bits that nothing means
           "ed25519 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo a",   // no padding
           "ed25519 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= a b",
           "ed25519 11qYAYKxCrfVS/7TyWQHOg7hcvPapi lrwIaaPcHURo= a",
           "ed25519 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHUR== a",
       }) {
    EXPECT_EQ(PublicKey::parse(bad).status().code(), StatusCode::kInvalidInput) << bad;
  }
}

TEST_F(Keys, of_a_list_are_read_line_by_line) {
  const std::string one = SecretKey::make("one")->public_key().line();
  const std::string two = SecretKey::make("two")->public_key().line();
  const auto keys = read_public_keys(file("list", "# who may\n\n" + one + "\r\n  " + two)).value();
  ASSERT_EQ(keys.size(), 2U);
  EXPECT_EQ(keys[0].line(), one);
  EXPECT_EQ(keys[1].line(), two);
  const auto bad = read_public_keys(file("bad", one + "\n\nssh-ed25519 AAAA\n"));
  EXPECT_THAT(bad.status().message(), HasSubstr("line 3"));
  EXPECT_THAT(read_public_keys(file("empty", "# nobody\n")).status().message(),
              HasSubstr("no key"));
}

}  // namespace
}  // namespace airlock
