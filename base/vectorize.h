#pragma once

/// Marks a function of plain loops that GCC compiles for several instruction sets and picks at load
/// time. Not under a sanitizer: its runtime is not up when the picking is done. Not with clang:
/// where a header declares the function, clang 14 compiles it for the first set alone. For
/// arithmetic on floats see tee_runner/vector_math.h.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !defined(AIRLOCK_NO_MULTIVERSIONING)
#define AIRLOCK_VECTORIZE \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define AIRLOCK_VECTORIZE
#endif
