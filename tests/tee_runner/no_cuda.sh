#!/bin/sh
# tee_runner must not link CUDA, not even late: neither its libraries nor its strings name it.
# Usage: no_cuda.sh PATH_OF_TEE_RUNNER
set -eu
libraries=$(ldd "$1")
if printf '%s\n' "$libraries" | grep -E -i 'libcuda|libcublas|libcudart|libnv|airlock_cuda'; then
  echo "tee_runner links CUDA" >&2
  exit 1
fi
# -a: the binary as text. What dlopen would be given, and the symbols of the runtime and of the driver.
if grep -a -o -E 'libcuda[a-z.]*|libcublas[a-zA-Z.]*|airlock_cuda|cudaGetDeviceCount|cudaMalloc|cuInit|cublasCreate' "$1"; then
  echo "tee_runner names CUDA" >&2
  exit 1
fi
echo "no CUDA in $1"
