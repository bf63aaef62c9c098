#include "tee_runner/serve/serve_options.h"

#include <arpa/inet.h>

#include <charconv>

#include "runtime/program/connection_options.h"
#include "runtime/rpc/endpoint.h"

namespace airlock {
namespace {

constexpr std::size_t kMostConnections = 4096;

struct Address {
  // Numeric, without brackets.
  std::string host;
  std::uint16_t port = 0;
  bool is_loopback = false;
};

Result<Address> parse_address(const std::string& text) {
  const auto refuse = [&](std::string_view why) {
    return Status(StatusCode::kUsage, "--listen '{}': {}", text, why);
  };
  constexpr std::string_view kForm =
      "it is not HOST:PORT with a numeric host or localhost, as in 127.0.0.1:8000 or [::1]:8000";
  auto endpoint = parse_endpoint("tcp://" + text);
  if (!endpoint.ok()) return refuse(kForm);
  Address address{.host = endpoint->host};
  const std::string& port = endpoint->port;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc() || end != port.data() + port.size()) return refuse(kForm);
  if (address.host == "localhost") address.host = endpoint->host = "127.0.0.1";
  if (address.host == "*") address.host = "0.0.0.0";
  const bool bracketed = address.host.front() == '[' && address.host.back() == ']';
  if (bracketed) address.host = address.host.substr(1, address.host.size() - 2);
  in6_addr parsed{};
  if (::inet_pton(bracketed ? AF_INET6 : AF_INET, address.host.c_str(), &parsed) != 1)
    return refuse(kForm);
  address.is_loopback = endpoint->is_loopback();
  return address;
}

bool has_tls(const ServeOptions& options) {
  return options.tls_self_signed || !options.tls_cert.empty();
}

}  // namespace

void declare_serve(const CommandOptions& command, ServeOptions& options) {
  command.text("--listen", options.listen,
               "where clients connect: HOST:PORT (127.0.0.1:8000); port 0: any");
  command.text("--model-name", options.model_name,
               "what clients call the model; the name of its folder without it");
  const CommandOption cert =
      command.text("--tls-cert", options.tls_cert, "certificate and chain, PEM; with --tls-key");
  const CommandOption key =
      command.text("--tls-key", options.tls_key, "its key, PEM, readable by its owner alone");
  (void)cert.needs(key);
  (void)key.needs(cert);
  (void)command
      .flag("--tls-self-signed", options.tls_self_signed,
            "make a key and a certificate at start, in memory; stderr has its SHA-256")
      .excludes(cert)
      .excludes(key);
  command.text("--api-keys", options.api_keys,
               "file of the keys that may ask, one a line: KEY or NAME KEY; mode 0600");
  command.number("--max-connections", options.max_connections, std::size_t{1}, kMostConnections,
                 "clients at once (256)");
  declare_drain(command, options.drain_seconds,
                "at SIGTERM, how long answers under way may still take (30)");
  command.real("--notice-seconds", options.notice_seconds, 0, kMostDrainSeconds,
               "of these, how long new requests are still answered, while /readyz is 503 for a "
               "balancer to see (0)");
}

Status check(const ServeOptions& options) {
  if (options.notice_seconds > options.drain_seconds) {
    return {StatusCode::kUsage, "--notice-seconds {} is more than the {} of --drain-seconds",
            options.notice_seconds, options.drain_seconds};
  }
  ASSIGN_OR_RETURN(const Address address, parse_address(options.listen));
  if (address.is_loopback || has_tls(options)) return {};
  return {StatusCode::kUsage,
          "--listen '{}': it is reachable from other machines, and prompts would cross the network "
          "in the clear: give --tls-cert and --tls-key, or --tls-self-signed",
          options.listen};
}

Result<HttpSettings> http_settings(const ServeOptions& options) {
  RETURN_IF_ERROR(check(options));
  ASSIGN_OR_RETURN(const Address address, parse_address(options.listen));
  HttpSettings settings;
  settings.host = address.host;
  settings.port = address.port;
  settings.is_loopback = address.is_loopback;
  settings.max_connections = options.max_connections;
  if (!options.api_keys.empty()) {
    ASSIGN_OR_RETURN(settings.keys, ApiKeys::read(options.api_keys));
  }
  if (!options.tls_cert.empty()) {
    ASSIGN_OR_RETURN(settings.tls, TlsMaterial::read(options.tls_cert, options.tls_key));
  } else if (options.tls_self_signed) {
    ASSIGN_OR_RETURN(settings.tls, TlsMaterial::self_signed(address.host));
  }
  return settings;
}

}  // namespace airlock
