#include "runtime/rpc/tcp.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "tests/support/in_child.h"
#include "tests/support/sanitizer.h"

namespace airlock {
namespace {

#if !AIRLOCK_ASAN  // UBSan needs a descriptor of its own to look at an object
TEST(Tcp, says_that_no_descriptor_is_left) {
  EXPECT_TRUE(holds_in_a_child([] {
    const rlimit none{3, 3};
    if (::setrlimit(RLIMIT_NOFILE, &none) != 0) return false;
    const Endpoint endpoint = parse_endpoint("tcp://127.0.0.1:9").value();
    const auto connection = connect_tcp(endpoint, Deadline::after(std::chrono::seconds(1)));
    return connection.status().code() == StatusCode::kResourceExhausted;
  }));
}
#endif

}  // namespace
}  // namespace airlock
