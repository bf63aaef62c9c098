# Any of Debian's builds: they take turns at what they share, whatever threads call. The serial one, as threads are ours;
# where another is installed too, the system's alternatives may give that at run time, and it is told to use one thread.
find_path(BLIS_INCLUDE_DIR blis.h PATH_SUFFIXES blis-serial blis-pthread blis-openmp blis)
find_library(BLIS_LIBRARY blis PATH_SUFFIXES blis-serial blis-pthread blis-openmp)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(BLIS REQUIRED_VARS BLIS_LIBRARY BLIS_INCLUDE_DIR)
if(BLIS_FOUND AND NOT TARGET BLIS::blis)
  add_library(BLIS::blis UNKNOWN IMPORTED)
  set_target_properties(BLIS::blis PROPERTIES IMPORTED_LOCATION ${BLIS_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${BLIS_INCLUDE_DIR})
endif()
