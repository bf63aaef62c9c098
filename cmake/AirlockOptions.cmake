# Flags that every target of ours is compiled with.
add_library(airlock_options INTERFACE)
target_compile_features(airlock_options INTERFACE cxx_std_20)
target_include_directories(airlock_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_definitions(airlock_options INTERFACE AIRLOCK_VERSION="${PROJECT_VERSION}")
target_compile_options(airlock_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
  -Wold-style-cast -Wcast-align -Woverloaded-virtual -Werror -fno-math-errno -fno-trapping-math -ftree-vectorize)
# What gpu_server and its modules must agree on, as a number: the headers whose types cross, and the compiler.
set(abi_text "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
foreach(header base/deadline.h base/dtype.h base/status.h base/tensor.h proto/op.h runtime/compute.h
    runtime/op_times.h runtime/model/config.h runtime/model/model_source.h
    runtime/exact/int8_weights.h runtime/placement/placement.h gpu_server/cuda_module_abi.h gpu_server/module_file.h
    gpu_server/group/link.h gpu_server/mpi_module_abi.h)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${header})
  file(SHA256 ${PROJECT_SOURCE_DIR}/${header} hash)
  string(APPEND abi_text " ${hash}")
endforeach()
string(SHA256 abi_hash "${abi_text}")
string(SUBSTRING ${abi_hash} 0 8 abi_hash)
# A file: what does not include it is not compiled anew where it changes.
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/generated/airlock_module_abi.h CONTENT "#define AIRLOCK_MODULE_ABI 0x${abi_hash}U\n" @ONLY)
add_library(airlock_module_abi INTERFACE)
target_include_directories(airlock_module_abi INTERFACE ${PROJECT_BINARY_DIR}/generated)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

set(AIRLOCK_SANITIZE "" CACHE STRING "Sanitizers, as -fsanitize= takes them: address,undefined or thread")
if(AIRLOCK_SANITIZE)
  target_compile_options(airlock_options INTERFACE -fsanitize=${AIRLOCK_SANITIZE} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  target_link_options(airlock_options INTERFACE -fsanitize=${AIRLOCK_SANITIZE})
endif()
option(AIRLOCK_FUZZ "Build the libFuzzer programs (clang only)" OFF)
if(AIRLOCK_FUZZ)  # what is fuzzed reports its branches too
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "AIRLOCK_FUZZ needs clang, this is ${CMAKE_CXX_COMPILER_ID}")
  endif()
  target_compile_options(airlock_options INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(airlock_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
find_program(AIRLOCK_CCACHE ccache)
if(AIRLOCK_CCACHE)
  # With paths relative to this tree: what one checkout compiled, another on this machine need not. The price: debug
  # information may name the folder of the checkout that compiled first.
  set(AIRLOCK_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${AIRLOCK_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${AIRLOCK_LAUNCHER})
endif()
