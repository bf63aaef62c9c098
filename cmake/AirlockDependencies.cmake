# Every third-party package, each with its Debian name.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)            # libfmt-dev
set(AIRLOCK_FMT fmt::fmt)
if(AIRLOCK_ONLY_CLIENT)  # a library that wants none where it runs
  set(AIRLOCK_FMT fmt::fmt-header-only)
endif()
find_package(nlohmann_json REQUIRED)  # nlohmann-json3-dev
find_path(MSGPACK_INCLUDE_DIR msgpack.hpp REQUIRED)  # libmsgpack-cxx-dev; its own config wants Boost
add_library(msgpack_headers INTERFACE)
target_include_directories(msgpack_headers SYSTEM INTERFACE ${MSGPACK_INCLUDE_DIR})
target_compile_definitions(msgpack_headers INTERFACE MSGPACK_NO_BOOST)
if(AIRLOCK_ONLY_CLIENT)
  if(AIRLOCK_CLIENT_KEYS)
    find_package(OpenSSL REQUIRED)
  endif()
  return()
endif()
find_package(cppzmq REQUIRED)         # cppzmq-dev, libzmq3-dev: the peer of a test
find_package(CLI11 REQUIRED)          # libcli11-dev
find_package(OpenSSL REQUIRED)        # libssl-dev
find_package(GTest REQUIRED)          # libgtest-dev, libgmock-dev
find_package(rapidcheck REQUIRED)     # librapidcheck-dev: properties in tests
find_package(prometheus-cpp CONFIG REQUIRED)  # prometheus-cpp-dev: --metrics
find_package(Boost 1.74 REQUIRED)      # libboost-dev, its headers alone: tee_runner serve
find_package(hwy REQUIRED)            # libhwy-dev
find_package(OneDNN REQUIRED)         # libdnnl-dev, cmake/FindOneDNN.cmake
find_package(PCRE2 REQUIRED)          # libpcre2-dev, cmake/FindPCRE2.cmake: split rules of tokenizers
find_package(BLIS REQUIRED)           # libblis-serial-dev, cmake/FindBLIS.cmake: products of fp64
