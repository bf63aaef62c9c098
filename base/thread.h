#pragma once

#include <exception>
#include <functional>
#include <new>
#include <string>
#include <system_error>
#include <thread>

#include "base/status.h"

namespace airlock {

/// Starts a thread that takes no signals: those are for the program's own threads, which may want
/// them blocked. Faults stay its own. kResourceExhausted, with `what` it was for and what to do,
/// where the system gives no thread (limits of processes, memory, cgroups). `root` lets no
/// exception out; without_exceptions() is the way.
Result<std::thread> start_thread(const std::string& what, std::function<void()> root);

/// What `body` returns; what it threw as a Status: kResourceExhausted for memory, kInternal for
/// anything else.
template <typename Body>
Status without_exceptions(const Body& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return {StatusCode::kResourceExhausted, "out of memory"};
  } catch (const std::system_error& error) {
    // A thread, mostly.
    const bool used_up = error.code() == std::errc::resource_unavailable_try_again ||
                         error.code() == std::errc::not_enough_memory;
    return {used_up ? StatusCode::kResourceExhausted : StatusCode::kInternal, "{}", error.what()};
  } catch (const std::exception& error) {
    return {StatusCode::kInternal, "{}", error.what()};
  } catch (...) {
    return {StatusCode::kInternal, "an exception of an unknown kind"};
  }
}

}  // namespace airlock
