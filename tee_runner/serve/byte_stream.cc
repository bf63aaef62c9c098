#include "tee_runner/serve/byte_stream.h"

#include <boost/asio/post.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <utility>

namespace airlock {
namespace {

using Tcp = boost::asio::ip::tcp;
namespace ssl = boost::asio::ssl;

class PlainStream : public ByteStream {
 public:
  explicit PlainStream(Tcp::socket socket) : socket_(std::move(socket)) {}
  void handshake(Done done) override {
    boost::asio::post(socket_.get_executor(), [done = std::move(done)] { done({}, 0); });
  }
  void read_some(boost::asio::mutable_buffer buffer, Done done) override {
    socket_.async_read_some(buffer, std::move(done));
  }
  void write_some(boost::asio::const_buffer buffer, Done done) override {
    socket_.async_write_some(buffer, std::move(done));
  }
  Tcp::socket& socket() override { return socket_; }

 private:
  Tcp::socket socket_;
};

class TlsStream : public ByteStream {
 public:
  TlsStream(Tcp::socket socket, ssl::context& context) : stream_(std::move(socket), context) {}
  void handshake(Done done) override {
    stream_.async_handshake(
        ssl::stream_base::server,
        [done = std::move(done)](const boost::system::error_code& error) { done(error, 0); });
  }
  void read_some(boost::asio::mutable_buffer buffer, Done done) override {
    stream_.async_read_some(buffer, std::move(done));
  }
  void write_some(boost::asio::const_buffer buffer, Done done) override {
    stream_.async_write_some(buffer, std::move(done));
  }
  Tcp::socket& socket() override { return stream_.next_layer(); }

 private:
  ssl::stream<Tcp::socket> stream_;
};

}  // namespace

std::unique_ptr<ByteStream> plain_stream(Tcp::socket socket) {
  return std::make_unique<PlainStream>(std::move(socket));
}

std::unique_ptr<ByteStream> tls_stream(Tcp::socket socket, ssl::context& context) {
  return std::make_unique<TlsStream>(std::move(socket), context);
}

Status configure(ssl::context& context, const TlsMaterial& tls) {
  SSL_CTX* const native = context.native_handle();
  boost::system::error_code error;
  context.use_certificate_chain(boost::asio::buffer(tls.certificate_pem), error);
  if (!error) context.use_private_key(boost::asio::buffer(tls.key_pem), ssl::context::pem, error);
  if (error) {
    return {StatusCode::kInvalidInput, "OpenSSL does not take the certificate and its key: {}",
            error.message()};
  }
  if (SSL_CTX_set_min_proto_version(native, TLS1_2_VERSION) != 1)
    return {StatusCode::kInternal, "OpenSSL cannot be told the least version of TLS"};
  SSL_CTX_set_options(
      native, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  // Memory of idle connections.
  SSL_CTX_set_mode(native, SSL_MODE_RELEASE_BUFFERS);
  return {};
}

}  // namespace airlock
