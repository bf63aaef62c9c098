#include "client/airlock_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "base/version.h"
#include "client/client_keys.h"
#include "client/pool_client.h"
#include "proto/handshake.h"
#include "runtime/rpc/endpoint.h"

// The C names of what PoolClient does. Nothing is thrown over them.

struct airlock_pool {
  std::shared_ptr<airlock::PoolClient> client;
};
struct airlock_array {
  std::unique_ptr<airlock::PoolArray> array;
};
struct airlock_job {
  std::unique_ptr<airlock::PoolJob> job;
};

namespace {

using airlock::Status;
using airlock::StatusCode;

static_assert(AIRLOCK_FP32 == static_cast<int>(airlock::DType::kF32) &&
              AIRLOCK_FP16 == static_cast<int>(airlock::DType::kF16) &&
              AIRLOCK_BF16 == static_cast<int>(airlock::DType::kBF16) &&
              AIRLOCK_INT32 == static_cast<int>(airlock::DType::kI32) &&
              AIRLOCK_UINT8 == static_cast<int>(airlock::DType::kU8) &&
              AIRLOCK_FP64 == static_cast<int>(airlock::DType::kF64));
static_assert(AIRLOCK_IN == static_cast<int>(airlock::PoolUse::kInput) &&
              AIRLOCK_OUT == static_cast<int>(airlock::PoolUse::kOutput) &&
              AIRLOCK_SCRATCH == static_cast<int>(airlock::PoolUse::kScratch));
static_assert(AIRLOCK_NO_TRANSPOSE == static_cast<int>(airlock::Transpose::kNone) &&
              AIRLOCK_TRANSPOSE_A == static_cast<int>(airlock::Transpose::kA) &&
              AIRLOCK_TRANSPOSE_B == static_cast<int>(airlock::Transpose::kB));
static_assert(AIRLOCK_MAX_RANK == airlock::Shape::kMaxRank);

thread_local std::string last_error;

airlock_status status_of(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return AIRLOCK_OK;
    case StatusCode::kUsage:
    case StatusCode::kInvalidInput:
      return AIRLOCK_INVALID;
    case StatusCode::kUnavailable:
    case StatusCode::kProtocolError:
    case StatusCode::kCancelled:
      return AIRLOCK_UNAVAILABLE;
    case StatusCode::kDeadlineExceeded:
      return AIRLOCK_TIMEOUT;
    case StatusCode::kVersionMismatch:
    case StatusCode::kMismatch:
    case StatusCode::kInUse:
      return AIRLOCK_REFUSED;
    case StatusCode::kResourceExhausted:
      return AIRLOCK_NO_ROOM;
    case StatusCode::kDevice:
      return AIRLOCK_DEVICE;
    case StatusCode::kInternal:
    case StatusCode::kBusy:
      break;
  }
  return AIRLOCK_INTERNAL;
}

/// Runs `body`, keeps the words of its failure, and gives the failure's number.
template <typename Body>
airlock_status guarded(const Body& body) noexcept {
  try {
    const Status status = body();
    last_error = status.message();
    return status_of(status.code());
  } catch (const std::bad_alloc&) {
    // Short enough to need no memory.
    last_error = "out of memory";
    return AIRLOCK_NO_ROOM;
  } catch (...) {
    last_error = "unexpected";
    return AIRLOCK_INTERNAL;
  }
}

/// Of what is freed: the words of the last failure stay.
template <typename Body>
void quietly(const Body& body) noexcept {
  try {
    body();
  } catch (...) {
    return;
  }
}

Status missing(const char* what) { return {StatusCode::kInvalidInput, "{} is NULL", what}; }

/// What a later release added may be a promise that this one would break.
Status check_unknown(const airlock_pool_options* given) {
  const auto* const bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t at = sizeof(*given); at < given->struct_size; ++at) {
    if (bytes[at] != 0)
      return {StatusCode::kInvalidInput, "an option that this library does not know (byte {})", at};
  }
  return {};
}

airlock::Result<airlock::PoolClientOptions> read_options(const airlock_pool_options* given) {
  airlock_pool_options options{};
  if (given != nullptr) {
    if (given->struct_size < sizeof(given->struct_size) || given->struct_size > 4096) {
      return Status(StatusCode::kInvalidInput, "struct_size of the options is {}",
                    given->struct_size);
    }
    // A program that was built for another release has other fields at the end.
    std::memcpy(&options, given, std::min(given->struct_size, sizeof(options)));
    RETURN_IF_ERROR(check_unknown(given));
  }
  airlock::PoolClientOptions read;
  read.endpoint =
      options.endpoint != nullptr ? options.endpoint : airlock::default_endpoint().text();
  if (options.client != nullptr) read.client = options.client;
  for (std::size_t i = 0; i < std::size(options.lease_bytes); ++i) {
    const std::uint64_t bytes = options.lease_bytes[i];
    if (bytes == 0) continue;
    read.lease[static_cast<airlock::PoolUse>(i)] =
        bytes == UINT64_MAX ? 0 : std::min(bytes, std::uint64_t{airlock::limits::kMaxPoolBytes});
  }
  if (options.inline_bytes > airlock::limits::kMaxSlotBytes) {
    return Status(StatusCode::kInvalidInput, "inline_bytes is {}, at most {} are possible",
                  options.inline_bytes, airlock::limits::kMaxSlotBytes);
  }
  if (options.inline_bytes != 0) read.inline_bytes = options.inline_bytes;
  if (options.timeout_ms != 0) read.timeout = std::chrono::milliseconds(options.timeout_ms);
  if (options.op_timeout_ms != 0)
    read.op_timeout = std::chrono::milliseconds(options.op_timeout_ms);
  read.spills = options.spill != 0;
  const auto text = [](const char* given_text) {
    return std::string(given_text != nullptr ? given_text : "");
  };
  const airlock::KeyFiles files{text(options.key_file), text(options.server_key_file)};
  ASSIGN_OR_RETURN(read.security, airlock::open_keys(files, read.endpoint));
  return read;
}

Status check_range(const airlock_array* array, std::size_t offset, std::size_t bytes) {
  const std::size_t all = array->array->bytes().size();
  if (offset <= all && bytes <= all - offset) return {};
  return {StatusCode::kInvalidInput, "{} bytes at {} of an array of {}", bytes, offset, all};
}

}  // namespace

extern "C" {

const char* airlock_pool_error(void) { return last_error.c_str(); }

const char* airlock_pool_version(void) {
  static const std::string version = fmt::format("{}, protocol {}.{}", airlock::kVersion,
                                                 airlock::kProtocolMajor, airlock::kProtocolMinor);
  return version.c_str();
}

airlock_status airlock_pool_connect(const airlock_pool_options* options, airlock_pool** pool) {
  return guarded([&]() -> Status {
    if (pool == nullptr) return missing("pool");
    *pool = nullptr;
    ASSIGN_OR_RETURN(const airlock::PoolClientOptions read, read_options(options));
    ASSIGN_OR_RETURN(auto client, airlock::PoolClient::connect(read));
    *pool = new airlock_pool{std::move(client)};
    return {};
  });
}

void airlock_pool_close(airlock_pool* pool) {
  quietly([pool] {
    if (pool != nullptr) pool->client->close();
    delete pool;
  });
}

void airlock_pool_end(airlock_pool* pool) {
  quietly([pool] {
    if (pool != nullptr) pool->client->close();
  });
}

airlock_status airlock_pool_check(airlock_pool* pool) {
  return guarded([pool] { return pool == nullptr ? missing("pool") : pool->client->check(); });
}

const char* airlock_pool_device(airlock_pool* pool) {
  return pool == nullptr ? "" : pool->client->device().c_str();
}

airlock_status airlock_pool_get_stats(airlock_pool* pool, airlock_pool_stats* stats) {
  return guarded([&]() -> Status {
    if (pool == nullptr || stats == nullptr) return missing("pool or stats");
    if (stats->struct_size < sizeof(stats->struct_size)) {
      return {StatusCode::kInvalidInput, "struct_size of the statistics is {}", stats->struct_size};
    }
    const airlock::PoolClientFigures figures = pool->client->figures();
    airlock_pool_stats all{};
    all.struct_size = std::min(stats->struct_size, sizeof(all));
    for (const airlock::PoolUse use : airlock::kValuesOf<airlock::PoolUse>) {
      const auto& from = figures.uses[use];
      all.use[static_cast<std::size_t>(use)] = {from.leased_bytes, from.used_bytes,
                                                from.largest_free, from.high_water_bytes};
    }
    all.arrays = figures.arrays;
    all.arrays_inside = figures.arrays_inside;
    all.products = figures.products;
    const auto add = [&figures](airlock::Path path, std::uint64_t& tensors, std::uint64_t& bytes) {
      const airlock::PathSnapshot& of = figures.transport[path];
      tensors = of.sent.tensors + of.received.tensors;
      bytes = of.sent.bytes + of.received.bytes;
    };
    add(airlock::Path::kPool, all.pool_tensors, all.pool_bytes);
    add(airlock::Path::kRing, all.ring_tensors, all.ring_bytes);
    add(airlock::Path::kZmq, all.sent_tensors, all.sent_bytes);
    all.fallbacks = figures.transport[airlock::Path::kPool].fallbacks;
    std::memcpy(stats, &all, all.struct_size);
    return {};
  });
}

airlock_status airlock_pool_alloc(airlock_pool* pool, airlock_use use, airlock_dtype dtype,
                                  size_t rank, const int64_t* shape, airlock_array** array) {
  return guarded([&]() -> Status {
    if (pool == nullptr || shape == nullptr || array == nullptr)
      return missing("pool, shape or array");
    *array = nullptr;
    // Not as enumerations before they are known to be some.
    const auto use_number = static_cast<unsigned>(use);
    const auto dtype_number = static_cast<unsigned>(dtype);
    if (use_number > AIRLOCK_SCRATCH)
      return {StatusCode::kInvalidInput, "no use has the number {}", use_number};
    if (dtype_number < AIRLOCK_FP32 || dtype_number > AIRLOCK_FP64)
      return {StatusCode::kInvalidInput, "no type has the number {}", dtype_number};
    const auto extents =
        rank <= airlock::Shape::kMaxRank ? airlock::Shape::make({shape, rank}) : std::nullopt;
    if (!extents) {
      return {StatusCode::kInvalidInput,
              "a shape of rank {}, or with a negative extent; the rank is "
              "1 to {}",
              rank, airlock::Shape::kMaxRank};
    }
    auto holder = std::make_unique<airlock_array>();
    ASSIGN_OR_RETURN(holder->array,
                     pool->client->alloc(static_cast<airlock::PoolUse>(use_number),
                                         {static_cast<airlock::DType>(dtype_number), *extents}));
    *array = holder.release();
    return {};
  });
}

void airlock_array_free(airlock_array* array) {
  quietly([array] { delete array; });
}

void* airlock_array_view(airlock_array* array) {
  return array == nullptr ? nullptr : array->array->bytes().data();
}

size_t airlock_array_bytes(const airlock_array* array) {
  return array == nullptr ? 0 : array->array->bytes().size();
}

int airlock_array_is_inside(const airlock_array* array) {
  return array != nullptr && array->array->is_inside() ? 1 : 0;
}

airlock_status airlock_array_copy_in(airlock_array* array, size_t offset, const void* from,
                                     size_t bytes) {
  return guarded([&]() -> Status {
    if (array == nullptr || (from == nullptr && bytes > 0)) return missing("array or from");
    RETURN_IF_ERROR(check_range(array, offset, bytes));
    return array->array->client().copy_in(*array->array, offset,
                                          {static_cast<const std::byte*>(from), bytes});
  });
}

airlock_status airlock_array_copy_out(airlock_array* array, size_t offset, void* to, size_t bytes) {
  return guarded([&]() -> Status {
    if (array == nullptr || (to == nullptr && bytes > 0)) return missing("array or to");
    RETURN_IF_ERROR(check_range(array, offset, bytes));
    return array->array->client().copy_out(*array->array, offset,
                                           {static_cast<std::byte*>(to), bytes});
  });
}

airlock_status airlock_pool_matmul_start(airlock_array* a, airlock_array* b,
                                         airlock_transpose transpose, airlock_array* result,
                                         airlock_job** job) {
  return guarded([&]() -> Status {
    if (a == nullptr || b == nullptr || result == nullptr || job == nullptr)
      return missing("an array or job");
    *job = nullptr;
    const auto number = static_cast<unsigned>(transpose);
    if (number > AIRLOCK_TRANSPOSE_B)
      return {StatusCode::kInvalidInput, "no transposition has the number {}", number};
    auto holder = std::make_unique<airlock_job>();
    ASSIGN_OR_RETURN(holder->job, a->array->client().start_matmul(
                                      *a->array, *b->array, static_cast<airlock::Transpose>(number),
                                      *result->array));
    *job = holder.release();
    return {};
  });
}

airlock_status airlock_job_wait(airlock_job* job) {
  return guarded([job] { return job == nullptr ? missing("job") : job->job->wait(); });
}

void airlock_job_free(airlock_job* job) {
  quietly([job] { delete job; });
}

airlock_status airlock_pool_matmul(airlock_array* a, airlock_array* b, airlock_transpose transpose,
                                   airlock_array* result) {
  airlock_job* job = nullptr;
  airlock_status status = airlock_pool_matmul_start(a, b, transpose, result, &job);
  if (status != AIRLOCK_OK) return status;
  status = airlock_job_wait(job);
  airlock_job_free(job);
  return status;
}

}  // extern "C"
