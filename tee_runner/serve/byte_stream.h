#pragma once
// Internal to tee_runner/serve.

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/system/error_code.hpp>
#include <cstddef>
#include <functional>
#include <memory>

#include "base/status.h"
#include "tee_runner/serve/tls_material.h"

namespace airlock {

/// A client's connection, plain or TLS. One thread, with at most one read and one write under way.
class ByteStream {
 public:
  using Done = std::function<void(const boost::system::error_code&, std::size_t)>;

  virtual ~ByteStream() = default;
  virtual void handshake(Done done) = 0;
  virtual void read_some(boost::asio::mutable_buffer buffer, Done done) = 0;
  virtual void write_some(boost::asio::const_buffer buffer, Done done) = 0;
  virtual boost::asio::ip::tcp::socket& socket() = 0;
};

std::unique_ptr<ByteStream> plain_stream(boost::asio::ip::tcp::socket socket);
/// `context` outlives it.
std::unique_ptr<ByteStream> tls_stream(boost::asio::ip::tcp::socket socket,
                                       boost::asio::ssl::context& context);

/// TLS 1.2 and 1.3. kInvalidInput where the library does not take the material.
Status configure(boost::asio::ssl::context& context, const TlsMaterial& tls);

}  // namespace airlock
