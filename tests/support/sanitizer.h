#pragma once

/// \file
/// Which sanitizer this is built with, 0 or 1: g++ defines a macro, clang 14 has a feature to ask for.

#if defined(__has_feature)
#define AIRLOCK_HAS_FEATURE(name) __has_feature(name)
#else
#define AIRLOCK_HAS_FEATURE(name) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || AIRLOCK_HAS_FEATURE(address_sanitizer)
#define AIRLOCK_ASAN 1
#else
#define AIRLOCK_ASAN 0
#endif

#if defined(__SANITIZE_THREAD__) || AIRLOCK_HAS_FEATURE(thread_sanitizer)
#define AIRLOCK_TSAN 1
#else
#define AIRLOCK_TSAN 0
#endif

#undef AIRLOCK_HAS_FEATURE
