#include "tests/cuda_fake/fake_schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "tests/cuda_fake/fake_state.h"

namespace airlock::cuda_fake {

namespace {

constexpr std::size_t kMaxUnproven = 4096;
constexpr std::uintptr_t kStreamTag = 0x0dec'5000'0000'0000;
constexpr std::uintptr_t kEventTag = 0x0dec'e000'0000'0000;
constexpr std::uintptr_t kStep = 64;

/// Handles are never given out twice, beyond reset() too.
std::uint64_t next_id() {
  static std::uint64_t last = 0;
  return ++last;
}

std::uint64_t id_of(std::uintptr_t handle, std::uintptr_t tag) {
  return handle < tag || (handle - tag) % kStep != 0 ? 0 : (handle - tag) / kStep;
}

bool is_conflict(const Work& a, const Work& b, const Access** where) {
  for (const Access& mine : a.accesses) {
    for (const Access& other : b.accesses) {
      if ((mine.write || other.write) && overlap(mine, other)) {
        *where = &mine;
        return true;
      }
    }
  }
  return false;
}

}  // namespace

cudaStream_t Schedule::handle(const Stream& stream) {
  return reinterpret_cast<cudaStream_t>(kStreamTag + stream.id * kStep);
}

cudaEvent_t Schedule::handle(const Event& event) {
  return reinterpret_cast<cudaEvent_t>(kEventTag + event.id * kStep);
}

Stream& Schedule::create_stream(int device) {
  auto stream = std::make_unique<Stream>();
  stream->id = next_id();
  stream->device = device;
  Stream& created = *stream;
  streams_.emplace(created.id, std::move(stream));
  if (state_.options.mode == Mode::kThreads) {
    created.worker = std::thread([this, &created] { serve(created); });
  }
  return created;
}

Stream* Schedule::find_stream(StreamId id) {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : found->second.get();
}

Stream* Schedule::find_stream(cudaStream_t handle, const char* function) {
  const auto number = reinterpret_cast<std::uintptr_t>(handle);
  Stream* stream = find_stream(id_of(number, kStreamTag));
  if (stream == nullptr) {
    state_.misuse(number <= 2
                      ? fmt::format("{} on the default stream", function)
                      : fmt::format("{} on a stream that was destroyed or never was", function));
  }
  return stream;
}

Event& Schedule::create_event(int device, bool timed) {
  auto event = std::make_unique<Event>();
  event->id = next_id();
  event->device = device;
  event->timed = timed;
  Event& created = *event;
  events_.emplace(created.id, std::move(event));
  return created;
}

Event* Schedule::find_event(cudaEvent_t handle, const char* function) {
  const auto found = events_.find(id_of(reinterpret_cast<std::uintptr_t>(handle), kEventTag));
  if (found != events_.end()) return found->second.get();
  state_.misuse(fmt::format("{} of an event that was destroyed or never was", function));
  return nullptr;
}

void Schedule::destroy_event(std::uint64_t id) {
  const Event& event = *events_.at(id);
  if (event.record != nullptr && !event.record->done && !state_.is_dead(event.device) &&
      !is_proven(event.record->stream, event.record->position)) {
    state_.misuse("cudaEventDestroy of an event that was not reached yet");
  }
  events_.erase(id);
}

void Schedule::destroy_stream(StreamId id, Lock& lock) {
  Stream& stream = *streams_.at(id);
  if (const Work* work = unproven_in(id); work != nullptr && !state_.is_dead(stream.device)) {
    state_.misuse(fmt::format("cudaStreamDestroy while {} may not have run yet", work->function));
  }
  if (state_.options.mode == Mode::kThreads) {
    (state_.is_dead(stream.device) ? stream.stop : stream.closing) = true;
    state_.changed.notify_all();
    std::thread worker = std::move(stream.worker);
    lock.unlock();
    worker.join();
    lock.lock();
  } else {
    run_to(id, stream.queued, lock);
  }
  for (const auto& work : stream.queue) {
    unpoison(work->host_result);
    if (work->kind == Work::Kind::kFree) state_.memory.release(work->accesses[0].address);
  }
  std::erase_if(unproven_, [id](const auto& work) { return work->stream == id; });
  for (auto& [other, each] : streams_) each->clock.erase(id);
  proven_.erase(id);
  streams_.erase(id);
}

void Schedule::touch(Stream& stream, const char* function) {
  const std::uint64_t thread = thread_number();
  if (stream.thread == 0) stream.thread = thread;
  if (stream.thread != thread) {
    state_.misuse(fmt::format("{} on a stream that another thread uses", function));
  }
}

bool Schedule::is_proven(StreamId id, std::uint64_t position) const {
  const auto found = proven_.find(id);
  return found != proven_.end() && position <= found->second;
}

void Schedule::prove(const Clock& clock) {
  for (const auto& [id, position] : clock) {
    if (!streams_.contains(id)) continue;
    std::uint64_t& known = proven_[id];
    known = std::max(known, position);
  }
  std::erase_if(unproven_,
                [this](const auto& work) { return is_proven(work->stream, work->position); });
}

const Work* Schedule::in_use(const Access& access) const {
  for (const auto& work : unproven_) {
    for (const Access& other : work->accesses) {
      if (overlap(access, other)) return work.get();
    }
  }
  return nullptr;
}

bool Schedule::unproven_writes(const Access& access) const {
  return std::any_of(unproven_.begin(), unproven_.end(), [&access](const auto& work) {
    return std::any_of(work->accesses.begin(), work->accesses.end(),
                       [&](const Access& other) { return other.write && overlap(access, other); });
  });
}

const Work* Schedule::unproven_in(StreamId id) const {
  const auto found = std::find_if(unproven_.begin(), unproven_.end(),
                                  [id](const auto& work) { return work->stream == id; });
  return found == unproven_.end() ? nullptr : found->get();
}

void Schedule::check_order(const Stream& stream, const Work& work) {
  for (const auto& earlier : unproven_) {
    if (earlier->stream == stream.id) continue;
    const auto known = stream.clock.find(earlier->stream);
    if (known != stream.clock.end() && earlier->position <= known->second) continue;
    const Access* where = nullptr;
    if (!is_conflict(work, *earlier, &where)) continue;
    state_.misuse(fmt::format(
        "{} {} {} bytes at {:#x} that {} of another stream also uses: nothing orders them",
        work.function, where->write ? "writes" : "reads", where->bytes, where->address,
        earlier->function));
    return;
  }
}

void Schedule::spoil(const Stream& stream, Work& work) {
  std::vector<Resolved> at(work.accesses.size());
  for (std::size_t i = 0; i < at.size(); ++i) {
    const Access& access = work.accesses[i];
    if (access.write && !access.scratch && in_use(access) != nullptr) {
      work.host_result = {};
      return;
    }
    if (!state_.memory.resolve(access, stream.device, at[i]).empty()) return;
  }
  if (work.spoil) static_cast<void>(work.spoil(at));
  poison(work.host_result);
}

std::uint64_t Schedule::queue(Stream& stream, Work work, Lock& lock) {
  touch(stream, work.function);
  work.stream = stream.id;
  work.position = ++stream.queued;
  stream.clock[stream.id] = work.position;
  stream.asked = false;
  if (work.kind == Work::Kind::kWait) {
    for (const auto& [id, position] : work.record->clock) {
      if (!streams_.contains(id)) continue;
      std::uint64_t& known = stream.clock[id];
      known = std::max(known, position);
    }
  }
  if (work.kind == Work::Kind::kRecord) {
    work.record->stream = stream.id;
    work.record->position = work.position;
    work.record->clock = stream.clock;
  }
  check_order(stream, work);
  spoil(stream, work);
  const auto queued = std::make_shared<Work>(std::move(work));
  stream.queue.push_back(queued);
  if (!queued->accesses.empty()) {
    unproven_.push_back(queued);
    if (unproven_.size() > kMaxUnproven) unproven_.pop_front();
  }
  const std::uint64_t position = queued->position;
  if (state_.options.mode == Mode::kEager) run_to(stream.id, position, lock);
  if (state_.options.mode == Mode::kThreads) state_.changed.notify_all();
  return position;
}

bool Schedule::runnable(const Stream& stream) const {
  if (stream.queue.empty() || state_.is_dead(stream.device)) return false;
  const Work& front = *stream.queue.front();
  return front.kind != Work::Kind::kWait || front.record->done ||
         !streams_.contains(front.record->stream);
}

void Schedule::serve(Stream& stream) {
  Lock lock(state_.mutex);
  for (;;) {
    state_.changed.wait(lock, [&] {
      return stream.stop || runnable(stream) || (stream.closing && stream.queue.empty()) ||
             (stream.closing && state_.is_dead(stream.device));
    });
    if (stream.stop || !runnable(stream)) return;
    run_front(stream, lock);
    state_.changed.notify_all();
  }
}

bool Schedule::run_to(StreamId id, std::uint64_t position, Lock& lock) {
  for (;;) {
    Stream* stream = find_stream(id);
    if (stream == nullptr || stream->done >= position) return true;
    if (state_.is_dead(stream->device)) return false;
    if (state_.options.mode == Mode::kThreads) {
      state_.changed.wait(lock);
    } else if (!run_front(*stream, lock)) {
      return false;
    }
  }
}

bool Schedule::run_front(Stream& stream, Lock& lock) {
  const std::shared_ptr<Work> work = stream.queue.front();
  switch (work->kind) {
    case Work::Kind::kWait:
      if (!run_to(work->record->stream, work->record->position, lock)) return false;
      break;
    case Work::Kind::kRecord:
      work->record->done = true;
      work->record->time = std::chrono::steady_clock::now();
      break;
    case Work::Kind::kAllocate:
      if (Allocation* fresh = state_.memory.find(work->accesses[0].address)) fresh->ready = true;
      break;
    case Work::Kind::kFree:
      state_.memory.release(work->accesses[0].address);
      break;
    case Work::Kind::kCompute:
      if (!state_.start_work(stream.device)) return false;
      compute(*work, stream.device, lock);
      break;
  }
  stream.queue.pop_front();
  stream.done = work->position;
  return true;
}

void Schedule::compute(Work& work, int device, Lock& lock) {
  std::vector<Resolved> at(work.accesses.size());
  for (std::size_t i = 0; i < at.size(); ++i) {
    const Access& access = work.accesses[i];
    const std::string wrong = state_.memory.resolve(access, device, at[i]);
    if (wrong.empty()) continue;
    state_.misuse(fmt::format("{} {} {} bytes at {:#x}: {}", work.function,
                              access.write ? "writes" : "reads", access.bytes, access.address,
                              wrong));
    unpoison(work.host_result);
    return;
  }
  if (work.registration != 0 && !state_.memory.is_registered(work.registration)) {
    state_.misuse(fmt::format("{} from or to host memory that was unregistered before it ran",
                              work.function));
  }
  const bool is_product = std::string_view(work.function).starts_with("cublas");
  const std::chrono::microseconds takes =
      is_product ? state_.options.gemm_time : std::chrono::microseconds(0);
  std::mutex& turn = state_.product_turn(device);
  if (state_.options.mode == Mode::kThreads) lock.unlock();
  unpoison(work.host_result);
  const std::string wrong = work.run(at);
  if (!lock.owns_lock() && takes.count() > 0) {
    const std::lock_guard held(turn);
    std::this_thread::sleep_for(takes);
  }
  if (!lock.owns_lock()) lock.lock();
  if (!wrong.empty()) state_.misuse(fmt::format("{}: {}", work.function, wrong));
}

void Schedule::abandon(std::optional<int> device) {
  for (const auto& [id, stream] : streams_) {
    if (device && stream->device != *device) continue;
    for (const auto& work : stream->queue) unpoison(work->host_result);
  }
  state_.changed.notify_all();
}

void Schedule::stop(Lock& lock) {
  std::vector<std::thread> workers;
  for (auto& [id, stream] : streams_) {
    stream->stop = true;
    if (stream->worker.joinable()) workers.push_back(std::move(stream->worker));
  }
  state_.changed.notify_all();
  lock.unlock();
  for (std::thread& worker : workers) worker.join();
  lock.lock();
}

std::vector<std::string> Schedule::leaks() const {
  std::vector<std::string> found;
  found.insert(found.end(), streams_.size(), "a stream was not destroyed");
  found.insert(found.end(), events_.size(), "an event was not destroyed");
  return found;
}

}  // namespace airlock::cuda_fake
