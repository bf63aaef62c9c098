#pragma once

/// Marks a function that is compiled for several instruction sets and picked at load time, so that
/// one binary runs everywhere and is fast where it can be. Not under a sanitizer: its runtime is
/// not up when the picking is done.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !defined(AIRLOCK_NO_MULTIVERSIONING)
#define AIRLOCK_VECTORIZE \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define AIRLOCK_VECTORIZE
#endif
