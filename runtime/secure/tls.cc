#include "runtime/secure/tls.h"

#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <utility>

#include "runtime/secure/openssl.h"

namespace airlock {
namespace {

using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using Context = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;
using Ssl = std::unique_ptr<SSL, Freed<SSL_free>>;
using Method = std::unique_ptr<BIO_METHOD, Freed<BIO_meth_free>>;

// What is read from the socket at once, and what is written: some records, and in a cache.
constexpr std::size_t kReadBytes = std::size_t{128} << 10;
constexpr std::size_t kGatheredBytes = std::size_t{128} << 10;
// Of TLS's own between two that carry something.
constexpr std::size_t kMostMessages = 16;
// A certificate of ours has 250 bytes.
constexpr long kMaxCertificateBytes = 4096;
// TLS looks at no clock of ours: this is for what X.509 wants.
constexpr long kYearsS = 100L * 365 * 24 * 3600;

Certificate certificate_of(const SecretKey& key) {
  Certificate certificate(X509_new());
  if (certificate == nullptr) return nullptr;
  X509_NAME* const name = X509_get_subject_name(certificate.get());
  const auto* const airlock = reinterpret_cast<const unsigned char*>("airlock");
  const bool is_filled =
      X509_set_version(certificate.get(), X509_VERSION_3) == 1 &&
      ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), 1) == 1 &&
      X509_gmtime_adj(X509_getm_notBefore(certificate.get()), 0) != nullptr &&
      X509_gmtime_adj(X509_getm_notAfter(certificate.get()), kYearsS) != nullptr &&
      X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, airlock, -1, -1, 0) == 1 &&
      X509_set_issuer_name(certificate.get(), name) == 1 &&
      X509_set_pubkey(certificate.get(), key.get()) == 1 &&
      X509_sign(certificate.get(), key.get(), nullptr) > 0;
  return is_filled ? std::move(certificate) : nullptr;
}

/// Bytes on their way to a socket.
class Gathered {
 public:
  explicit Gathered(int fd) : fd_(fd) { bytes_.reserve(kGatheredBytes); }

  int fd() const { return fd_; }
  bool empty() const { return begin_ == bytes_.size(); }
  enum class Left { kAll, kSome, kNever };  // has left; never: the peer has gone

  /// How many of them there was room for, 0: none. Throws nothing: OpenSSL calls it.
  std::size_t add(std::span<const std::byte> bytes) noexcept {
    if (bytes_.size() + bytes.size() > kGatheredBytes && flush() != Left::kAll) return 0;
    bytes = bytes.first(std::min(bytes.size(), kGatheredBytes));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return bytes.size();
  }
  Left flush() noexcept {
    if (is_gone_) return Left::kNever;
    while (!empty()) {
      const auto rest = std::span(bytes_).subspan(begin_);
      const ssize_t sent = ::send(fd_, rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Left::kSome;
      if (sent < 0) {
        is_gone_ = true;
        return Left::kNever;
      }
      begin_ += static_cast<std::size_t>(sent);
    }
    bytes_.clear();
    begin_ = 0;
    return Left::kAll;
  }
  bool is_gone() const { return is_gone_; }

 private:
  const int fd_;
  std::vector<std::byte> bytes_;
  std::size_t begin_ = 0;
  bool is_gone_ = false;
};

// What OpenSSL takes for its socket: what it writes is gathered, so that many records leave with
// one call; what it reads comes from the socket, without waiting.

int socket_read(BIO* bio, char* into, int count) {
  const int fd = static_cast<const Gathered*>(BIO_get_data(bio))->fd();
  BIO_clear_retry_flags(bio);
  ssize_t got = -1;
  do {
    got = ::recv(fd, into, static_cast<std::size_t>(count), MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) BIO_set_retry_read(bio);
  return static_cast<int>(got);
}

int gather(BIO* bio, const char* bytes, int count) {
  auto& gathered = *static_cast<Gathered*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  const std::size_t taken =
      gathered.add(std::as_bytes(std::span(bytes, static_cast<std::size_t>(count))));
  if (taken > 0) return static_cast<int>(taken);
  if (!gathered.is_gone()) BIO_set_retry_write(bio);
  return -1;
}

long socket_control(BIO* /*bio*/, int command, long /*number*/, void* /*pointer*/) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

/// Lives as long as the program: connections end whenever they do.
const BIO_METHOD* socket_method() {
  static const Method method = [] {
    Method made(BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "airlock socket"));
    if (made != nullptr) {
      BIO_meth_set_write(made.get(), gather);
      BIO_meth_set_read(made.get(), socket_read);
      BIO_meth_set_ctrl(made.get(), socket_control);
    }
    return made;
  }();
  return method.get();
}

class TlsSession final : public StreamSession {
 public:
  TlsSession(int fd, Ssl ssl, StreamRole role, const KnownPeers& peers, const PublicKey& own,
             std::uint64_t bytes_a_key)
      : gathered_(fd),
        ssl_(std::move(ssl)),
        role_(role),
        peers_(peers),
        own_(own),
        bytes_a_key_(bytes_a_key) {
    SSL_set_app_data(ssl_.get(), this);
    BIO_set_data(SSL_get_wbio(ssl_.get()), &gathered_);
  }

  Status shake_hands() override {
    RETURN_IF_ERROR(over_);
    if (is_open_) return {};
    begin();
    if (const int result = SSL_do_handshake(ssl_.get()); result != 1) return failed(result);
    // The server takes the client's key, or does not, only now: what it says of it comes first.
    if (role_ == StreamRole::kClient && !is_taken_) {
      char byte = 0;
      const int result = SSL_peek(ssl_.get(), &byte, 1);
      if (result != 1) {
        const Status status = failed(result);
        if (!is_taken_ || status.code() != StatusCode::kBusy) return status;
      }
    }
    is_open_ = true;
    progressed();
    return {};
  }

  Result<std::size_t> send(std::span<const std::byte> bytes) override {
    RETURN_IF_ERROR(shake_hands());
    RETURN_IF_ERROR(flush_gone());
    begin();
    if (sent_ > bytes_a_key_) {
      sent_ = 0;
      if (SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) != 1) return failed(-1);
    }
    std::size_t count = 0;
    const int result = SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &count);
    send_wants_to_read_ = result != 1 && SSL_want_read(ssl_.get());
    if (result != 1) return failed(result);
    sent_ += count;
    return count;
  }
  Status flush() override {
    RETURN_IF_ERROR(over_);
    if (gathered_.flush() == Gathered::Left::kSome) return {StatusCode::kBusy, "no room to send"};
    return flush_gone();
  }
  bool sending() const override { return !gathered_.empty() && !gathered_.is_gone(); }

  Result<std::size_t> receive(std::span<std::byte> into) override {
    RETURN_IF_ERROR(shake_hands());
    begin();
    std::size_t count = 0;
    const int result = SSL_read_ex(ssl_.get(), into.data(), into.size(), &count);
    if (result != 1 || messages_ > kMostMessages) return failed(result);
    progressed();
    return count;
  }

  bool is_open() const override { return is_open_; }
  short events(short events) const override {
    if (!is_open_) return sending() ? POLLOUT : POLLIN;
    // Half a message of TLS's own came: nothing leaves before the other half.
    if (send_wants_to_read_ && (events & POLLOUT) != 0)
      return static_cast<short>((events & ~POLLOUT) | POLLIN);
    return events;
  }
  /// Not where all that is held is a part of a record.
  bool holds_bytes() const override { return !is_drained_ && SSL_has_pending(ssl_.get()) == 1; }

  /// A message of TLS's own came. Few do: a peer that sends more keeps us from what has a deadline.
  void count_message() { ++messages_; }

  /// The peer's certificate came: whether its key is known.
  bool admit(const X509* certificate) {
    shown_ = openssl::public_half(certificate != nullptr ? X509_get0_pubkey(certificate) : nullptr);
    return shown_ && std::ranges::find(peers_.keys, *shown_) != peers_.keys.end();
  }
  void set_taken() { is_taken_ = true; }

 private:
  void begin() {
    ERR_clear_error();
    messages_ = 0;
  }

  /// Bytes came, or both are through. What TLS has to say by itself leaves.
  void progressed() {
    is_drained_ = false;
    (void)gathered_.flush();
  }

  Status flush_gone() const {
    if (!gathered_.is_gone()) return {};
    return {StatusCode::kUnavailable, "the peer closed the connection"};
  }

  /// kBusy, or why the session is over, from then on.
  Status failed(int result) {
    const int error = SSL_get_error(ssl_.get(), result);
    (void)gathered_.flush();  // why, for the peer
    if (is_open_ && messages_ > kMostMessages) {
      over_ = {StatusCode::kProtocolError, "TLS: a flood of messages that carry nothing"};
      return over_;
    }
    is_drained_ = is_drained_ || error == SSL_ERROR_WANT_READ;
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
      return {StatusCode::kBusy, "not now"};
    // What came may still be read.
    if (is_open_ && error == SSL_ERROR_SYSCALL && gathered_.is_gone()) return flush_gone();
    over_ = reason(error, ERR_peek_error());
    ERR_clear_error();
    return over_;
  }

  Status reason(int error, unsigned long why) const {
    const bool is_server = role_ == StreamRole::kServer;
    if (error == SSL_ERROR_ZERO_RETURN || error == SSL_ERROR_SYSCALL)
      return {StatusCode::kUnavailable, "the peer closed the connection"};
    if (ERR_GET_REASON(why) == ERR_R_MALLOC_FAILURE)
      return {StatusCode::kResourceExhausted, "no memory for a TLS connection"};
    switch (ERR_GET_LIB(why) == ERR_LIB_SSL ? ERR_GET_REASON(why) : 0) {
      case SSL_R_CERTIFICATE_VERIFY_FAILED: {
        const std::string shown = shown_ ? shown_->line() : "of another kind";
        if (is_server) {
          return {StatusCode::kMismatch, "{} has not the client's key: {}", peers_.file, shown};
        }
        return {StatusCode::kMismatch, "the server is not the one of {}: its key is {}",
                peers_.file, shown};
      }
      case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
        if (is_server) {
          return {StatusCode::kMismatch, "the client takes us for another server: our key is {}",
                  own_.line()};
        }
        return {StatusCode::kMismatch,
                "the server does not let us in: its --authorized-keys wants the line {}",
                own_.line()};
      case SSL_R_UNEXPECTED_EOF_WHILE_READING:
        return {StatusCode::kUnavailable, "the peer closed the connection"};
      case SSL_R_WRONG_VERSION_NUMBER:
      case SSL_R_HTTP_REQUEST:
      case SSL_R_HTTPS_PROXY_REQUEST:
      case SSL_R_PACKET_LENGTH_TOO_LONG:
        return {StatusCode::kVersionMismatch,
                "the other side speaks no TLS 1.3: it was started without keys, or is another "
                "program"};
      default:
        break;
    }
    const char* const text = ERR_reason_error_string(why);
    return {StatusCode::kProtocolError, "TLS: {}", text != nullptr ? text : "a failure"};
  }

  Gathered gathered_;  // before what writes to it
  const Ssl ssl_;
  const StreamRole role_;
  const KnownPeers& peers_;
  const PublicKey& own_;
  const std::uint64_t bytes_a_key_;
  // The peer's key, once it has shown one.
  std::optional<PublicKey> shown_;
  // The server has taken our key.
  bool is_taken_ = false;
  bool is_open_ = false;
  // The last look found no whole record.
  bool is_drained_ = false;
  bool send_wants_to_read_ = false;
  std::size_t messages_ = 0;  // of TLS's own, in the call under way
  std::uint64_t sent_ = 0;    // under the key of now
  Status over_;
};

TlsSession& session_of(const SSL* ssl) { return *static_cast<TlsSession*>(SSL_get_app_data(ssl)); }

void count_message(int writes, int /*version*/, int type, const void* /*bytes*/,
                   std::size_t /*count*/, SSL* ssl, void* /*argument*/) {
  if (writes == 0 && type == SSL3_RT_HANDSHAKE) session_of(ssl).count_message();
}

int verify(X509_STORE_CTX* store, void* /*argument*/) {
  const auto* const ssl = static_cast<const SSL*>(
      X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  if (session_of(ssl).admit(X509_STORE_CTX_get0_cert(store))) return 1;
  X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
  return 0;
}

/// A ticket came. No session is resumed: it says that the server has taken what we showed.
int take_ticket(SSL* ssl, SSL_SESSION* /*session*/) {
  session_of(ssl).set_taken();
  return 0;
}

class Tls final : public StreamSecurity {
 public:
  Tls(Context context, KnownPeers peers, PublicKey own, std::uint64_t bytes_a_key)
      : context_(std::move(context)),
        peers_(std::move(peers)),
        own_(std::move(own)),
        bytes_a_key_(bytes_a_key) {}

  Result<std::unique_ptr<StreamSession>> begin(int fd, StreamRole role) const override {
    Ssl ssl(SSL_new(context_.get()));
    BIO* const bio = socket_method() != nullptr ? BIO_new(socket_method()) : nullptr;
    if (ssl == nullptr || bio == nullptr) {
      BIO_free(bio);
      ERR_clear_error();
      return Status(StatusCode::kResourceExhausted, "no memory for a TLS connection");
    }
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl.get(), bio, bio);
    role == StreamRole::kServer ? SSL_set_accept_state(ssl.get())
                                : SSL_set_connect_state(ssl.get());
    return std::unique_ptr<StreamSession>(
        std::make_unique<TlsSession>(fd, std::move(ssl), role, peers_, own_, bytes_a_key_));
  }

 private:
  const Context context_;
  const KnownPeers peers_;
  const PublicKey own_;
  const std::uint64_t bytes_a_key_;
};

}  // namespace

Result<std::shared_ptr<const StreamSecurity>> make_tls(const SecretKey& own, KnownPeers peers,
                                                       std::uint64_t bytes_a_key) {
  Context context(SSL_CTX_new(TLS_method()));
  const Certificate certificate = certificate_of(own);
  if (context == nullptr || certificate == nullptr ||
      SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(context.get(), TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(context.get(),
                               "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256") != 1 ||
      SSL_CTX_set1_groups_list(context.get(), "X25519") != 1 ||
      SSL_CTX_set1_sigalgs_list(context.get(), "ed25519") != 1 ||
      SSL_CTX_set1_client_sigalgs_list(context.get(), "ed25519") != 1 ||
      SSL_CTX_use_certificate(context.get(), certificate.get()) != 1 ||
      SSL_CTX_use_PrivateKey(context.get(), own.get()) != 1 ||
      // One ticket, of a session that nobody keeps: see take_ticket().
      SSL_CTX_set_num_tickets(context.get(), 1) != 1)
    return openssl::failure("speak TLS 1.3 with Ed25519, X25519 and AES-128-GCM");
  SSL_CTX_set_options(context.get(), SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION |
                                         SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(context.get(), take_ticket);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_cert_verify_callback(context.get(), verify, nullptr);
  SSL_CTX_set_max_cert_list(context.get(), kMaxCertificateBytes);
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE |
                                      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                      SSL_MODE_RELEASE_BUFFERS);
  // One call ends, however many messages of TLS's own a peer sends: with what was read ahead.
  SSL_CTX_clear_mode(context.get(), SSL_MODE_AUTO_RETRY);
  SSL_CTX_set_msg_callback(context.get(), count_message);
  SSL_CTX_set_read_ahead(context.get(), 1);
  SSL_CTX_set_default_read_buffer_len(context.get(), kReadBytes);
  return std::shared_ptr<const StreamSecurity>(
      std::make_shared<Tls>(std::move(context), std::move(peers), own.public_key(), bytes_a_key));
}

}  // namespace airlock
