/* Arrays in memory that this program and an Airlock server (gpu_server) share, and products of them
 * that the server computes. An array is written and read in place by both: a product sends nothing
 * but a few numbers. docs/POOL_API.md explains it; client/airlock_pool.hpp is the same for C++ and
 * python/ for Python.
 *
 * Any thread may call anything; calls on one session take turns, and airlock_job_wait() keeps its
 * turn until the product is there. A session does not outlive a fork() into the child. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define AIRLOCK_API __attribute__((visibility("default")))
#else
#define AIRLOCK_API
#endif

/* Whatever number comes is one that can be looked at. */
#ifdef __cplusplus
#define AIRLOCK_ENUM_BASE : int
#else
#define AIRLOCK_ENUM_BASE
#endif

/* What a call came to; airlock_pool_error() has the words. */
typedef enum airlock_status AIRLOCK_ENUM_BASE {
  AIRLOCK_OK = 0,
  AIRLOCK_INVALID = 1,     /* an argument that cannot be: a shape, a size, a null pointer */
  AIRLOCK_UNAVAILABLE = 2, /* no server, or it ended, or it stalled */
  AIRLOCK_TIMEOUT = 3,     /* the product was not there in time; the session goes on, and the
                              server may write the result until it is through */
  AIRLOCK_NO_ROOM = 4,     /* no memory, here or in the lease; no place for us at the server */
  AIRLOCK_REFUSED = 5,     /* the server speaks another version of the protocol, or one side has
                              not the other's key */
  AIRLOCK_DEVICE = 6,      /* the server's device failed */
  AIRLOCK_INTERNAL = 7
} airlock_status;

/* The numbers never change. */
typedef enum airlock_dtype AIRLOCK_ENUM_BASE {
  AIRLOCK_FP32 = 1,
  AIRLOCK_FP16 = 2,
  AIRLOCK_BF16 = 3,
  AIRLOCK_INT32 = 4,
  AIRLOCK_UINT8 = 5,
  AIRLOCK_FP64 = 6
} airlock_dtype;

/* What an array is for: each has memory of its own in the server's pool. */
typedef enum airlock_use AIRLOCK_ENUM_BASE {
  AIRLOCK_IN = 0,     /* operands */
  AIRLOCK_OUT = 1,    /* results */
  AIRLOCK_SCRATCH = 2 /* results that stay and are operands of what comes next */
} airlock_use;

/* Which operand of a product lies transposed. */
typedef enum airlock_transpose AIRLOCK_ENUM_BASE {
  AIRLOCK_NO_TRANSPOSE = 0,
  AIRLOCK_TRANSPOSE_A = 1,
  AIRLOCK_TRANSPOSE_B = 2
} airlock_transpose;

#define AIRLOCK_MAX_RANK 4

typedef struct airlock_pool airlock_pool;   /* a session with a server */
typedef struct airlock_array airlock_array; /* an array of it */
typedef struct airlock_job airlock_job;     /* a product that was started */

/* How to connect; 0 or NULL is the default of each. A field that this library does not know yet, of
 * a program that was built for a later one, is AIRLOCK_INVALID unless it is 0. */
typedef struct airlock_pool_options {
  size_t struct_size;   /* sizeof(airlock_pool_options) */
  const char* endpoint; /* "ipc:///path" or "tcp://host:port"; default as gpu_server's */
  const char* client;   /* this program's name, for the server's log */
  /* Bytes to lease for each use; default: as much as the server gives one session. UINT64_MAX:
   * none. What is leased costs addresses until it is touched. */
  uint64_t lease_bytes[3];
  /* An array of fewer bytes lives in this program and rides along; default 10240, at least 4096. */
  uint32_t inline_bytes;
  uint32_t timeout_ms;    /* the longest silence of the server; default 5000 */
  uint32_t op_timeout_ms; /* from a product's start to its end; default 300000 */
  /* Not 0: an array that finds no room in the lease lives in this program and is sent, instead of
   * AIRLOCK_NO_ROOM. */
  int spill;
  /* Over tcp://: the files of this program's own key (NAME.key of airlock_keygen) and of the
   * server's public one (NAME.pub). Both or neither; neither: nothing is encrypted. */
  const char* key_file;
  const char* server_key_file;
} airlock_pool_options;

/* Of one use. */
typedef struct airlock_use_stats {
  uint64_t leased_bytes;
  uint64_t used_bytes;       /* in whole pages of 4096 */
  uint64_t largest_free;     /* the largest array that has room now */
  uint64_t high_water_bytes; /* the most that was ever used */
} airlock_use_stats;

typedef struct airlock_pool_stats {
  size_t struct_size; /* sizeof(airlock_pool_stats), set by the caller */
  airlock_use_stats use[3];
  uint64_t arrays;        /* that are there now */
  uint64_t arrays_inside; /* of them, those in the lease */
  uint64_t products;      /* that were started */
  /* Tensors of products, and their bytes: what lay in the pool, what crossed by the ring or within
   * a message, what was sent by ZeroMQ; and of these, those for which the pool had no room. */
  uint64_t pool_tensors, pool_bytes;
  uint64_t ring_tensors, ring_bytes;
  uint64_t sent_tensors, sent_bytes;
  uint64_t fallbacks;
} airlock_pool_stats;

/* Why the last call of this thread failed; never NULL. Valid until this thread's next call. */
AIRLOCK_API const char* airlock_pool_error(void);
/* "0.1.0, protocol 6.0" */
AIRLOCK_API const char* airlock_pool_version(void);

/* `options` may be NULL. Waits for a server up to timeout_ms. */
AIRLOCK_API airlock_status airlock_pool_connect(const airlock_pool_options* options,
                                                airlock_pool** pool);
/* Ends the session, and what waits in it, from any thread; NULL is nothing, and so is the second
 * time. Arrays and jobs that are still there go on being valid, and their calls fail; views of the
 * lease may read as zeros from here on. */
AIRLOCK_API void airlock_pool_end(airlock_pool* pool);
/* The same, and frees `pool`: no other call may have it. Arrays and jobs that are still there must
 * be freed too. */
AIRLOCK_API void airlock_pool_close(airlock_pool* pool);
/* AIRLOCK_OK while the server is there. */
AIRLOCK_API airlock_status airlock_pool_check(airlock_pool* pool);
/* Fills in as much of `stats` as struct_size says. */
AIRLOCK_API airlock_status airlock_pool_get_stats(airlock_pool* pool, airlock_pool_stats* stats);
/* "cpu, BLIS 0.9.0 for fp64": what the server computes with. Lives as long as the session. */
AIRLOCK_API const char* airlock_pool_device(airlock_pool* pool);

/* A dense row-major array of rank 1 to AIRLOCK_MAX_RANK, its contents undefined. It lies in the
 * lease, at a multiple of 4096 bytes, if it has at least inline_bytes and the session has a lease
 * of that use; else in this program. AIRLOCK_NO_ROOM says what is needed, what is free and the
 * largest free run. */
AIRLOCK_API airlock_status airlock_pool_alloc(airlock_pool* pool, airlock_use use,
                                              airlock_dtype dtype, size_t rank,
                                              const int64_t* shape, airlock_array** array);
/* Gives its memory back at once, or once no job uses it any more. NULL is nothing. */
AIRLOCK_API void airlock_array_free(airlock_array* array);
/* The array's memory, to read and to write until it is freed, except while a job that writes it is
 * under way (and to read only, while one reads it). The server can write there at any time: check
 * what matters in a copy. */
AIRLOCK_API void* airlock_array_view(airlock_array* array);
AIRLOCK_API size_t airlock_array_bytes(const airlock_array* array);
/* Whether it lies in the lease. */
AIRLOCK_API int airlock_array_is_inside(const airlock_array* array);
/* Copies `bytes` from `offset` of the array on; AIRLOCK_INVALID past its end. Both wait for the
 * last product that writes the array. copy_out fails where that failed and nobody waited for it,
 * and, for an array in the lease, where the server ended before or the lease's memory was
 * taken away: what was copied may be zeros then. */
AIRLOCK_API airlock_status airlock_array_copy_in(airlock_array* array, size_t offset,
                                                 const void* from, size_t bytes);
AIRLOCK_API airlock_status airlock_array_copy_out(airlock_array* array, size_t offset, void* to,
                                                  size_t bytes);

/* Starts result = a x b: a [m, k] or [heads, m, k], b [k, n] or [groups, k, n], either of them
 * transposed; heads is a multiple of groups. Both operands have one type: fp64 into fp64; fp32,
 * fp16 and bf16 are rounded to fp32 and multiplied so, into any of these three. `result` is neither
 * of the operands. Products are computed in the order of their start, and the result of one may be
 * an operand of the next before it was waited for. */
AIRLOCK_API airlock_status airlock_pool_matmul_start(airlock_array* a, airlock_array* b,
                                                     airlock_transpose transpose,
                                                     airlock_array* result, airlock_job** job);
/* Until `result` is there. Again: the same answer. Fails too where a product failed that was to
 * write one of its operands: so does a start, until that one was waited for, or the operand was
 * copied into or is the result of another product. */
AIRLOCK_API airlock_status airlock_job_wait(airlock_job* job);
/* Frees it. A product that was not waited for goes on at the server, which may write its result
 * until it ends. NULL is nothing. */
AIRLOCK_API void airlock_job_free(airlock_job* job);
/* Both. */
AIRLOCK_API airlock_status airlock_pool_matmul(airlock_array* a, airlock_array* b,
                                               airlock_transpose transpose, airlock_array* result);

#ifdef __cplusplus
}
#endif
