// Peers that OpenSSL's own interface makes, and no program of ours would.
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/freed.h"
#include "runtime/secure/tls.h"

namespace airlock {
namespace {

using Context = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;
using Ssl = std::unique_ptr<SSL, Freed<SSL_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using Session = std::unique_ptr<SSL_SESSION, Freed<SSL_SESSION_free>>;

Certificate certificate_of(EVP_PKEY* shown, EVP_PKEY* signs, const EVP_MD* digest) {
  Certificate made(X509_new());
  X509_set_version(made.get(), X509_VERSION_3);
  X509_gmtime_adj(X509_getm_notBefore(made.get()), 0);
  X509_gmtime_adj(X509_getm_notAfter(made.get()), 3600);
  X509_set_pubkey(made.get(), shown);
  CHECK(X509_sign(made.get(), signs, digest) > 0);
  return made;
}

/// A client that takes any server.
struct Stranger {
  Context context{SSL_CTX_new(TLS_client_method())};
  Ssl ssl;
  UniqueFd fd;

  void show(EVP_PKEY* key, X509* certificate) {
    CHECK(SSL_CTX_use_certificate(context.get(), certificate) == 1);
    CHECK(SSL_CTX_use_PrivateKey(context.get(), key) == 1);
  }
  void connect(UniqueFd to, SSL_SESSION* resumed = nullptr) {
    fd = std::move(to);
    ssl.reset(SSL_new(context.get()));
    SSL_set_fd(ssl.get(), fd.get());
    SSL_set_connect_state(ssl.get());
    if (resumed != nullptr) CHECK(SSL_set_session(ssl.get(), resumed) == 1);
  }
};

class Strangers : public ::testing::Test {
 protected:
  Strangers() {
    std::array<int, 2> ends{};
    CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
    theirs_ = UniqueFd(ends[0]);
    ours_ = UniqueFd(ends[1]);
  }
  SocketStream server() {
    return SocketStream::open(std::move(ours_), security_.get(), StreamRole::kServer).value();
  }
  /// What the server says of it, in the end; the stranger shouts as soon as it may.
  Status meet(Stranger& stranger, SocketStream& at) {
    stranger.connect(std::move(theirs_));
    Status status;
    for (int i = 0; i < 50; ++i) {
      if (SSL_do_handshake(stranger.ssl.get()) == 1)
        (void)SSL_write(stranger.ssl.get(), "let me in", 9);
      std::array<std::byte, 16> into{};
      const iovec part{into.data(), into.size()};
      status = at.receive({&part, 1}).status();
      if (status.code() != StatusCode::kBusy) break;
    }
    return status;
  }

  const SecretKey own_ = SecretKey::make("server").value();
  const SecretKey alice_ = SecretKey::make("alice").value();
  const std::shared_ptr<const StreamSecurity> security_ =
      make_tls(own_, {{alice_.public_key()}, "clients"}).value();
  UniqueFd theirs_;
  UniqueFd ours_;
};

TEST_F(Strangers, with_the_right_key_is_let_in) {
  Stranger stranger;
  stranger.show(alice_.get(), certificate_of(alice_.get(), alice_.get(), nullptr).get());
  SocketStream at = server();
  EXPECT_TRUE(meet(stranger, at).ok()) << "the other tests would say nothing";
}

TEST_F(Strangers, without_a_certificate) {
  Stranger stranger;
  SocketStream at = server();
  EXPECT_EQ(meet(stranger, at).code(), StatusCode::kProtocolError);
}

TEST_F(Strangers, with_a_key_of_another_kind) {
  const Key rsa(EVP_RSA_gen(2048));
  const Key ec(EVP_EC_gen("P-256"));
  EVP_PKEY* const keys[] = {rsa.get(), ec.get()};
  for (EVP_PKEY* const key : keys) {
    std::array<int, 2> ends{};
    CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
    theirs_ = UniqueFd(ends[0]);
    ours_ = UniqueFd(ends[1]);
    Stranger stranger;
    stranger.show(key, certificate_of(key, key, EVP_sha256()).get());
    SocketStream at = server();
    const StatusCode code = meet(stranger, at).code();
    EXPECT_TRUE(code == StatusCode::kProtocolError || code == StatusCode::kMismatch)
        << static_cast<int>(code);
  }
}

TEST_F(Strangers, with_alices_public_key_and_not_her_secret) {
  // A certificate of alice's public half, signed by whom it may be: what counts is who signs the
  // handshake.
  const SecretKey mallory = SecretKey::make("mallory").value();
  std::array<unsigned char, PublicKey::kBytes> half{};
  std::size_t bytes = half.size();
  CHECK(EVP_PKEY_get_raw_public_key(alice_.get(), half.data(), &bytes) == 1);
  const Key shown(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, half.data(), half.size()));
  const Certificate certificate = certificate_of(shown.get(), mallory.get(), nullptr);
  // OpenSSL itself will not pair them; a client that would is beyond it, and fails at
  // CertificateVerify, which is OpenSSL's to check.
  Stranger stranger;
  CHECK(SSL_CTX_use_certificate(stranger.context.get(), certificate.get()) == 1);
  EXPECT_NE(SSL_CTX_use_PrivateKey(stranger.context.get(), mallory.get()), 1);
  SocketStream at = server();
  EXPECT_FALSE(meet(stranger, at).ok());
}

TEST_F(Strangers, of_an_older_tls) {
  Stranger stranger;
  stranger.show(alice_.get(), certificate_of(alice_.get(), alice_.get(), nullptr).get());
  SSL_CTX_set_max_proto_version(stranger.context.get(), TLS1_2_VERSION);
  SocketStream at = server();
  EXPECT_EQ(meet(stranger, at).code(), StatusCode::kProtocolError);
}

TEST_F(Strangers, who_resumes_finds_nothing_to_resume) {
  Stranger stranger;
  stranger.show(alice_.get(), certificate_of(alice_.get(), alice_.get(), nullptr).get());
  SocketStream at = server();
  ASSERT_TRUE(meet(stranger, at).ok());
  char byte = 0;
  (void)SSL_read(stranger.ssl.get(), &byte, 1);  // takes the ticket
  const Session session(SSL_get1_session(stranger.ssl.get()));
  ASSERT_NE(session, nullptr);
  // Again, with it and without a certificate.
  std::array<int, 2> ends{};
  CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
  Stranger again;
  again.connect(UniqueFd(ends[0]), session.get());
  SocketStream other =
      SocketStream::open(UniqueFd(ends[1]), security_.get(), StreamRole::kServer).value();
  Status status;
  for (int i = 0; i < 50; ++i) {
    if (SSL_do_handshake(again.ssl.get()) == 1) (void)SSL_write(again.ssl.get(), "let me in", 9);
    std::array<std::byte, 16> into{};
    const iovec part{into.data(), into.size()};
    status = other.receive({&part, 1}).status();
    if (status.code() != StatusCode::kBusy) break;
  }
  EXPECT_EQ(status.code(), StatusCode::kProtocolError) << status.to_string();
  EXPECT_EQ(SSL_session_reused(again.ssl.get()), 0);
}

TEST_F(Strangers, who_only_changes_keys_is_sent_away) {
  Stranger stranger;
  stranger.show(alice_.get(), certificate_of(alice_.get(), alice_.get(), nullptr).get());
  SocketStream at = server();
  ASSERT_TRUE(meet(stranger, at).ok());
  for (int i = 0; i < 1000; ++i) {
    SSL_key_update(stranger.ssl.get(), SSL_KEY_UPDATE_NOT_REQUESTED);
    if (SSL_do_handshake(stranger.ssl.get()) != 1) break;  // no room: enough
  }
  std::array<std::byte, 16> into{};
  const iovec part{into.data(), into.size()};
  EXPECT_EQ(at.receive({&part, 1}).status().code(), StatusCode::kProtocolError);
  EXPECT_EQ(at.send({&part, 1}).status().code(), StatusCode::kProtocolError);
}

/// KeyUpdate (RFC 8446, "Handshake Protocol") is message 24.
void count_updates(int writes, int, int type, const void* bytes, std::size_t count, SSL*,
                   void* argument) {
  if (writes == 0 && type == SSL3_RT_HANDSHAKE && count > 0 &&
      *static_cast<const unsigned char*>(bytes) == 24)
    ++*static_cast<int*>(argument);
}

TEST_F(Strangers, are_sent_new_keys_as_promised) {
  const auto often = make_tls(own_, {{alice_.public_key()}, "clients"}, 10000).value();
  Stranger stranger;
  int updates = 0;
  SSL_CTX_set_msg_callback(stranger.context.get(), count_updates);
  SSL_CTX_set_msg_callback_arg(stranger.context.get(), &updates);
  stranger.show(alice_.get(), certificate_of(alice_.get(), alice_.get(), nullptr).get());
  SocketStream at = SocketStream::open(std::move(ours_), often.get(), StreamRole::kServer).value();
  ASSERT_TRUE(meet(stranger, at).ok());
  std::array<std::byte, 1000> bytes{};
  const iovec part{bytes.data(), bytes.size()};
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(at.send({&part, 1}).ok());
    std::array<char, 1000> into{};
    while (SSL_read(stranger.ssl.get(), into.data(), static_cast<int>(into.size())) > 0) {
    }
  }
  EXPECT_GE(updates, 8);
  EXPECT_LE(updates, 10);
}

TEST_F(Strangers, who_changes_keys_now_and_then_is_heard) {
  Stranger stranger;
  stranger.show(alice_.get(), certificate_of(alice_.get(), alice_.get(), nullptr).get());
  SocketStream at = server();
  ASSERT_TRUE(meet(stranger, at).ok());
  for (int i = 0; i < 100; ++i) {
    SSL_key_update(stranger.ssl.get(), SSL_KEY_UPDATE_REQUESTED);
    ASSERT_EQ(SSL_write(stranger.ssl.get(), "hello", 5), 5);
    std::array<std::byte, 16> into{};
    const iovec part{into.data(), into.size()};
    const auto came = at.receive({&part, 1});
    ASSERT_TRUE(came.ok()) << came.status().to_string();
    EXPECT_EQ(*came, 5U);
    char byte = 0;
    (void)SSL_read(stranger.ssl.get(), &byte, 1);  // the answer to the request
  }
}

}  // namespace
}  // namespace airlock
