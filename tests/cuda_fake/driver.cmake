# libcuda.so.1 for LD_LIBRARY_PATH, alone in its folder. Needs no CUDA toolkit.
include_guard(GLOBAL)
add_library(fake_cuda_driver MODULE ${CMAKE_CURRENT_LIST_DIR}/fake_driver.cc)
target_link_libraries(fake_cuda_driver PRIVATE airlock_options)
set_target_properties(fake_cuda_driver PROPERTIES PREFIX lib OUTPUT_NAME cuda SUFFIX .so.1
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/cuda_fake/driver)
