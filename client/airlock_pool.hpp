// The arrays and products of airlock_pool.h for C++17: owners that free, errors that are thrown.
// Everything that is said there holds here.
#pragma once

#include <airlock_pool.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace airlock::pool {

enum class Use { in = AIRLOCK_IN, out = AIRLOCK_OUT, scratch = AIRLOCK_SCRATCH };
enum class Transpose {
  none = AIRLOCK_NO_TRANSPOSE,
  a = AIRLOCK_TRANSPOSE_A,
  b = AIRLOCK_TRANSPOSE_B
};

/// what() has the library's words.
class Error : public std::runtime_error {
 public:
  explicit Error(airlock_status status)
      : std::runtime_error(airlock_pool_error()), status_(status) {}
  airlock_status status() const { return status_; }

 private:
  airlock_status status_;
};

inline void check(airlock_status status) {
  if (status != AIRLOCK_OK) throw Error(status);
}

/// The type of an element: float, double, std::int32_t, std::uint8_t.
template <typename T>
struct TypeOf;
template <>
struct TypeOf<float> {
  static constexpr airlock_dtype value = AIRLOCK_FP32;
};
template <>
struct TypeOf<double> {
  static constexpr airlock_dtype value = AIRLOCK_FP64;
};
template <>
struct TypeOf<std::int32_t> {
  static constexpr airlock_dtype value = AIRLOCK_INT32;
};
template <>
struct TypeOf<std::uint8_t> {
  static constexpr airlock_dtype value = AIRLOCK_UINT8;
};

/// An array of a session. Move-only.
template <typename T>
class Array {
 public:
  T* data() const { return static_cast<T*>(airlock_array_view(handle_.get())); }
  std::size_t size() const { return airlock_array_bytes(handle_.get()) / sizeof(T); }
  const std::vector<std::int64_t>& shape() const { return shape_; }
  T* begin() const { return data(); }
  T* end() const { return data() + size(); }
  T& operator[](std::size_t index) const { return data()[index]; }
  bool is_inside() const { return airlock_array_is_inside(handle_.get()) != 0; }
  /// `count` elements from element `first` on.
  void copy_in(const T* from, std::size_t count, std::size_t first = 0) {
    check(airlock_array_copy_in(handle_.get(), first * sizeof(T), from, count * sizeof(T)));
  }
  void copy_out(T* to, std::size_t count, std::size_t first = 0) const {
    check(airlock_array_copy_out(handle_.get(), first * sizeof(T), to, count * sizeof(T)));
  }
  void free() { handle_.reset(); }
  airlock_array* get() const { return handle_.get(); }

 private:
  friend class Pool;
  struct Free {
    void operator()(airlock_array* array) const { airlock_array_free(array); }
  };
  Array(airlock_array* handle, std::vector<std::int64_t> shape)
      : handle_(handle), shape_(std::move(shape)) {}

  std::unique_ptr<airlock_array, Free> handle_;
  std::vector<std::int64_t> shape_;
};

/// A product that was started. Move-only.
class Job {
 public:
  void wait() { check(airlock_job_wait(handle_.get())); }

 private:
  friend class Pool;
  struct Free {
    void operator()(airlock_job* job) const { airlock_job_free(job); }
  };
  explicit Job(airlock_job* handle) : handle_(handle) {}
  std::unique_ptr<airlock_job, Free> handle_;
};

/// A session with a server. Move-only; arrays and jobs may outlive it.
class Pool {
 public:
  /// The defaults of airlock_pool_options but for the endpoint ("": gpu_server's default).
  explicit Pool(const std::string& endpoint = "") : Pool(options_for(endpoint.c_str())) {}
  explicit Pool(const airlock_pool_options& options) {
    airlock_pool* made = nullptr;
    check(airlock_pool_connect(&options, &made));
    handle_.reset(made);
  }
  /// To be changed and given to the constructor; `endpoint` outlives that.
  static airlock_pool_options options_for(const char* endpoint = nullptr) {
    airlock_pool_options options{};
    options.struct_size = sizeof(options);
    options.endpoint = endpoint != nullptr && *endpoint != '\0' ? endpoint : nullptr;
    return options;
  }

  template <typename T>
  Array<T> alloc(Use use, std::vector<std::int64_t> shape) {
    airlock_array* made = nullptr;
    check(airlock_pool_alloc(handle_.get(), static_cast<airlock_use>(use), TypeOf<T>::value,
                             shape.size(), shape.data(), &made));
    return Array<T>(made, std::move(shape));
  }
  template <typename T>
  Job start_matmul(const Array<T>& a, const Array<T>& b, Transpose transpose, Array<T>& result) {
    airlock_job* made = nullptr;
    check(airlock_pool_matmul_start(a.get(), b.get(), static_cast<airlock_transpose>(transpose),
                                    result.get(), &made));
    return Job(made);
  }
  template <typename T>
  void matmul(const Array<T>& a, const Array<T>& b, Transpose transpose, Array<T>& result) {
    start_matmul(a, b, transpose, result).wait();
  }
  airlock_pool_stats stats() const {
    airlock_pool_stats stats{};
    stats.struct_size = sizeof(stats);
    check(airlock_pool_get_stats(handle_.get(), &stats));
    return stats;
  }
  std::string device() const { return airlock_pool_device(handle_.get()); }
  void check_server() const { check(airlock_pool_check(handle_.get())); }
  /// Ends the session, from any thread; the object goes on being valid, and its calls fail.
  void close() { airlock_pool_end(handle_.get()); }

 private:
  struct Close {
    void operator()(airlock_pool* pool) const { airlock_pool_close(pool); }
  };
  std::unique_ptr<airlock_pool, Close> handle_;
};

}  // namespace airlock::pool
