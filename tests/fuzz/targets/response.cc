#include "tests/fuzz/codec_target.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

std::vector<Bytes> seeds() {
  std::vector<Bytes> all;
  for (const ResponseHeader& response : valid_responses()) all.push_back(encode(response));
  return all;
}

bool run(std::span<const std::byte> input) {
  const auto response = decode_any_response(input);
  if (!response.ok()) check_refusal(response.status());
  // The server's words are shown to a user.
  if (response.ok() && response->code != StatusCode::kOk && !response->message.empty() &&
      response->code != StatusCode::kInternal) {
    check_refusal({response->code, response->message});
  }
  return response.ok();
}

}  // namespace

constinit const Target kResponse = {"response", seeds, run};

}  // namespace airlock::fuzz
