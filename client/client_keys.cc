#include "client/client_keys.h"

#include <utility>

#include "runtime/rpc/endpoint.h"
#ifdef AIRLOCK_CLIENT_KEYS
#include "runtime/secure/tls.h"
#endif

namespace airlock {
namespace {

Result<std::shared_ptr<const StreamSecurity>> read_keys(const KeyFiles& files) {
#ifdef AIRLOCK_CLIENT_KEYS
  ASSIGN_OR_RETURN(const SecretKey own, SecretKey::read(files.own));
  ASSIGN_OR_RETURN(PublicKey server, read_public_key(files.server));
  return make_tls(own, {{std::move(server)}, files.server});
#else
  return Status(StatusCode::kUsage,
                "this library was built without keys, and {} is one: build it with OpenSSL and "
                "-DAIRLOCK_CLIENT_KEYS=ON",
                files.own);
#endif
}

}  // namespace

Result<std::shared_ptr<const StreamSecurity>> open_keys(const KeyFiles& files,
                                                        const std::string& endpoint) {
  if (files.own.empty() && files.server.empty()) return std::shared_ptr<const StreamSecurity>();
  if (files.own.empty() || files.server.empty()) {
    return Status(StatusCode::kUsage,
                  "keys go together: the server's public one and this side's own, and only {} is "
                  "given",
                  files.own.empty() ? files.server : files.own);
  }
  ASSIGN_OR_RETURN(const Endpoint reached, parse_endpoint(endpoint));
  if (reached.kind != Endpoint::Kind::kTcp)
    return Status(StatusCode::kUsage, "keys are of a tcp:// endpoint, and not of {}", endpoint);
  return read_keys(files);
}

}  // namespace airlock
