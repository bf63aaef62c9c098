// One mutant of the ring's sources that fetches twice. 0 where the count finds it.
#include <cstdio>

#include "tests/model_check/fetch_paths.h"

int main() {
  const auto faults = airlock::fetched_twice_by_the_ring();
  for (const std::string& fault : faults) std::puts(fault.c_str());
  if (faults.empty()) std::puts("not caught");
  return faults.empty() ? 1 : 0;
}
