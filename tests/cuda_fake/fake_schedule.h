#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "tests/cuda_fake/fake_memory.h"

/// Internal to tests/cuda_fake. Streams, events and the work in them. All of it under State::mutex;
/// `lock` holds that and may be let go for a while where a function takes it.
namespace airlock::cuda_fake {

class State;
using Lock = std::unique_lock<std::mutex>;
/// How far each stream is known to have come.
using Clock = std::map<StreamId, std::uint64_t>;

/// Where an event was recorded. Recording again makes a new one.
struct Record {
  StreamId stream = 0;
  std::uint64_t position = 0;
  Clock clock;  // what has run when this has
  bool done = false;
  std::chrono::steady_clock::time_point time;
};

struct Work {
  enum class Kind { kCompute, kWait, kRecord, kAllocate, kFree };
  /// Returns what was found wrong, else nothing. `at`: an entry an access.
  using Run = std::function<std::string(std::span<const Resolved> at)>;

  Kind kind = Kind::kCompute;
  const char* function = "";
  std::vector<Access> accesses;
  Run run;                         // may be called without the lock
  Run spoil;                       // fills what `run` will write; only where no work is there
  std::shared_ptr<Record> record;  // to wait for, or to complete
  std::uint64_t registration = 0;  // of the host memory that is copied; 0: none
  Rows host_result;                // poisoned until this has run
  StreamId stream = 0;
  std::uint64_t position = 0;
};

struct Stream {
  StreamId id = 0;
  int device = 0;
  std::uint64_t thread = 0;  // the only one that may use it; 0: not used yet
  bool asked = false;        // cudaStreamQuery answered "not ready" since the last work
  std::deque<std::shared_ptr<Work>> queue;
  std::uint64_t queued = 0;  // positions start at 1
  std::uint64_t done = 0;
  Clock clock;  // what has run when all that is queued has
  bool closing = false;
  bool stop = false;
  std::thread worker;
};

struct Event {
  std::uint64_t id = 0;
  int device = 0;
  bool timed = true;
  bool asked = false;  // cudaEventQuery answered "not ready" since the record
  std::shared_ptr<Record> record;
};

class Schedule {
 public:
  explicit Schedule(State& state) : state_(state) {}

  Stream& create_stream(int device);
  /// Null where it is not there (or is the default stream): reported, for `function`.
  Stream* find_stream(cudaStream_t handle, const char* function);
  Stream* find_stream(StreamId id);
  /// What is queued runs first, as with CUDA, unless the device hangs or is lost.
  void destroy_stream(StreamId id, Lock& lock);
  Event& create_event(int device, bool timed);
  Event* find_event(cudaEvent_t handle, const char* function);
  void destroy_event(std::uint64_t id);

  static cudaStream_t handle(const Stream& stream);
  static cudaEvent_t handle(const Event& event);

  /// The calling thread uses the stream.
  void touch(Stream& stream, const char* function);
  /// Returns its position.
  std::uint64_t queue(Stream& stream, Work work, Lock& lock);
  /// As demanded by a wait. false where the device hangs or is lost before.
  bool run_to(StreamId id, std::uint64_t position, Lock& lock);
  /// The caller knows that all of `clock` has run.
  void prove(const Clock& clock);
  bool is_proven(StreamId id, std::uint64_t position) const;
  /// Work that may still touch the range, as far as the host knows; null: none.
  const Work* in_use(const Access& access) const;
  const Work* unproven_in(StreamId id) const;
  bool unproven_writes(const Access& access) const;

  /// The device (or all) is gone: nothing of it runs any more, results of copies may be looked at.
  void abandon(std::optional<int> device);
  /// Ends all threads. Lets the lock go.
  void stop(Lock& lock);
  std::vector<std::string> leaks() const;

 private:
  void serve(Stream& stream);
  bool runnable(const Stream& stream) const;
  bool run_front(Stream& stream, Lock& lock);
  void compute(Work& work, int device, Lock& lock);
  void check_order(const Stream& stream, const Work& work);
  void spoil(const Stream& stream, Work& work);

  State& state_;
  std::map<StreamId, std::unique_ptr<Stream>> streams_;
  std::map<std::uint64_t, std::unique_ptr<Event>> events_;
  std::deque<std::shared_ptr<const Work>> unproven_;  // that the host does not know to have run
  Clock proven_;
};

}  // namespace airlock::cuda_fake
