// A library that is no module of Airlock's. It needs another one where AIRLOCK_NEEDS_ABSENT says
// so.

#ifdef AIRLOCK_NEEDS_ABSENT
extern "C" int airlock_no_module();
extern "C" int airlock_needs_absent() { return airlock_no_module(); }
#else
extern "C" int airlock_no_module() { return 1; }
#endif
