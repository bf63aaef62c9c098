# CMake's own module, kept from a fault of 3.25 (Debian 12's): it sets a property of CUDA::nvToolsExt, a library that CUDA 13
# no longer has, and ends the configuration. It does so only for projects that ask for CMake 3.25 or newer.
set(airlock_minimum_version ${CMAKE_MINIMUM_REQUIRED_VERSION})
set(CMAKE_MINIMUM_REQUIRED_VERSION 3.24)
include(${CMAKE_ROOT}/Modules/FindCUDAToolkit.cmake)
set(CMAKE_MINIMUM_REQUIRED_VERSION ${airlock_minimum_version})
