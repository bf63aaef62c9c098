#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/log.h"
#include "gpu_server/server.h"

namespace airlock {

namespace {

// A runner that gives no sign for so long is gone.
constexpr std::chrono::nanoseconds kClientSilence = std::chrono::seconds(10);
// Of ended sessions, each by itself.
constexpr std::size_t kReportsKept = 1024;

Status fill_random(void* out, std::size_t bytes) {
  if (::getrandom(out, bytes, 0) == static_cast<ssize_t>(bytes)) return {};
  return {StatusCode::kInternal, "getrandom failed"};
}

}  // namespace

Status Server::send(const Identity& identity, const ControlMessage& message) {
  const std::vector<std::byte> frame = encode_control(message);
  const std::span<const std::byte> parts[] = {std::as_bytes(std::span(identity)), frame};
  // One that reads nothing gets nothing, and nobody waits for it.
  return control_->send(parts, Deadline::now());
}

// The answer to a hello that led to no session.
void Server::refuse(const Identity& identity, const std::string& client, const Status& why) {
  log_warning(fmt::format("refused {}: {}", client, why.message()));
  counters_->live().sessions_refused.fetch_add(1, std::memory_order_relaxed);
  (void)send(identity, Refusal{why.code(), why.message()});
}

// One that is ending holds its slot no more, so that a runner may follow another at once.
std::size_t Server::active_sessions() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(sessions_, [](const auto& entry) { return !entry.second->ending(); }));
}

void Server::handle(const Identity& identity, std::span<const std::byte> frame) {
  auto message = decode_control(frame);
  const auto known = sessions_.find(identity);
  if (!message.ok()) {
    if (known != sessions_.end()) return known->second->end(message.status());
    log_warning("control socket: " + message.status().message());
    if (message.status().code() == StatusCode::kVersionMismatch)
      counters_->live().sessions_refused.fetch_add(1, std::memory_order_relaxed);
    return (void)send(identity, Refusal{message.status().code(), message.status().message()});
  }
  if (const auto* hello = std::get_if<Hello>(&*message)) {
    if (known == sessions_.end()) return greet(identity, *hello);
    return known->second->end({StatusCode::kProtocolError, "a second hello in one session"});
  }
  if (known == sessions_.end()) return;
  known->second->silence().heard();
  if (std::holds_alternative<Goodbye>(*message)) {
    known->second->end({StatusCode::kUnavailable, "the client said goodbye"});
  }
}

Status Server::check_hello(const Hello& hello) const {
  RETURN_IF_ERROR(device_status());
  if (stopping_.load(std::memory_order_acquire)) {
    return {StatusCode::kUnavailable, "it is shutting down"};
  }
  // Those that are ending are bounded too: they have memory.
  const std::size_t active = active_sessions();
  if (active >= options_.max_clients || sessions_.size() >= 2 * options_.max_clients) {
    return Status(StatusCode::kResourceExhausted,
                  "server full: {} of {} sessions are in use (--max-clients); try again later",
                  active, options_.max_clients);
  }
  if (!hello.digest.empty() && hello.digest != model_->digest) {
    return Status(StatusCode::kMismatch, "it serves another model: digest {}, yours is {}",
                  model_->digest, hello.digest);
  }
  if (!hello.ring.accepts(geometry_)) {
    return Status(StatusCode::kUnavailable,
                  "its rings have {} slots of {} bytes, {} of {} are demanded (--ring-slots, "
                  "--ring-slot-bytes)",
                  geometry_.slot_count, geometry_.slot_bytes, hello.ring.slot_count,
                  hello.ring.slot_bytes);
  }
  return {};
}

// A path that no session has: one that libzmq found taken it would remove.
Result<std::string> Server::session_endpoint() const {
  if (endpoint_.kind == Endpoint::Kind::kTcp) return fmt::format("tcp://{}:*", endpoint_.host);
  constexpr int kAttempts = 256;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::uint32_t random = 0;
    RETURN_IF_ERROR(fill_random(&random, sizeof(random)));
    ASSIGN_OR_RETURN(const std::string path, session_socket_path(endpoint_.path, random));
    const std::string text = "ipc://" + path;
    const bool ours = std::ranges::any_of(
        sessions_, [&](const auto& entry) { return entry.second->data_endpoint() == text; });
    if (!ours && ::access(path.c_str(), F_OK) != 0) return text;
  }
  return Status(StatusCode::kResourceExhausted,
                "no free name for the session's socket; give an --endpoint with a shorter path");
}

Result<std::unique_ptr<Session>> Server::make_session(const Hello& hello) {
  RETURN_IF_ERROR(check_hello(hello));
  ASSIGN_OR_RETURN(std::string data, session_endpoint());
  const BackendInfo& info = model_->compute->info();
  Welcome welcome;
  std::uint64_t random[3] = {};
  RETURN_IF_ERROR(fill_random(random, sizeof(random)));
  welcome.epoch = random[0] | 1;  // never 0
  welcome.token = fmt::format("{:016x}{:016x}", random[1], random[2]);
  welcome.has_ring = ring_on_ && hello.ring.choice == RingChoice::kOn;
  welcome.geometry = geometry_;
  welcome.dims = info.dims;
  welcome.digest = model_->digest;
  welcome.dtype = info.dtype;
  welcome.stored_dtype = model_->stored_dtype;
  welcome.threads = static_cast<std::uint32_t>(info.threads);
  welcome.device = info.device;
  welcome.config_bytes = static_cast<std::uint32_t>(model_->config_json.size());
  const std::lock_guard lock(mutex_);
  auto* block = counters_->open_session(welcome.epoch, hello.client, now_ns());
  if (block == nullptr) {
    return Status(StatusCode::kResourceExhausted, "server full: sessions are still ending");
  }
  return std::make_unique<Session>(*context_, *model_, std::move(welcome), std::move(data),
                                   hello.client, wake_,
                                   SessionCounters{*block, counters_->live().service_ns});
}

void Server::greet(const Identity& identity, const Hello& hello) {
  reap();
  auto session = make_session(hello);
  if (!session.ok()) return refuse(identity, hello.client, session.status());
  const std::lock_guard lock(mutex_);
  sessions_.emplace(identity, std::move(session).value());
}

// Tells new clients what came of their hello.
void Server::answer_new() {
  for (auto entry = sessions_.begin(); entry != sessions_.end();) {
    Session& session = *entry->second;
    auto offer = session.answered() ? std::nullopt : session.take_offer();
    if (!offer) {
      ++entry;
    } else if (offer->ok()) {
      log_info(fmt::format("session {:016x}: {}", (*offer)->epoch, session.client()));
      counters_->live().sessions_started.fetch_add(1, std::memory_order_relaxed);
      if (Status sent = send(entry->first, **offer); !sent.ok()) {
        session.end(
            {StatusCode::kUnavailable, "the client left before its welcome: " + sent.message()});
      }
      ++entry;
    } else {
      refuse(entry->first, session.client(), offer->status());
      const std::lock_guard lock(mutex_);
      auto& block = session.block();
      entry = sessions_.erase(entry);  // its worker is through: it made nothing
      counters_->drop_session(block);
    }
  }
}

// Sessions whose worker is through go; their statistics stay.
void Server::reap() {
  for (auto entry = sessions_.begin(); entry != sessions_.end();) {
    if (!entry->second->finished() || !entry->second->answered()) {
      ++entry;
      continue;
    }
    (void)send(entry->first, Goodbye{"the session is over"});  // it may be gone
    SessionReport last = entry->second->report();
    const std::lock_guard lock(mutex_);
    ended_.push_back(std::move(last));
    if (ended_.size() > kReportsKept) {
      ended_[1].merge_older(ended_[0]);
      ended_.pop_front();
    }
    auto& block = entry->second->block();
    entry = sessions_.erase(entry);
    counters_->close_session(block);
  }
}

Status Server::device_status() const {
  const std::lock_guard lock(mutex_);
  return device_status_;
}

// A device that failed for good is the end of all sessions, and then of the server.
Status Server::check_device() {
  Status status = device_status();
  if (!status.ok()) return status;
  status = model_->compute->health();
  if (status.ok()) return {};
  log_error("all sessions end: " + status.message());
  {
    const std::lock_guard lock(mutex_);
    device_status_ = status;
  }
  device_lost_.set();
  return status;
}

// `told` is what clients read; one that has no answer to its hello yet is refused with it.
void Server::end_all(const Status& reason, const Status& told) {
  for (auto& [identity, session] : sessions_) {
    if (session->answered()) {
      (void)send(identity, Goodbye{told.message()});
    } else {
      (void)send(identity, Refusal{told.code(), told.message()});
    }
    session->end(reason);
  }
}

void Server::control_loop() {
  Deadline next_sign = Deadline::now();
  bool told = false;
  while (!all_ended_.load(std::memory_order_acquire)) {
    auto parts = control_->receive(next_sign);
    counters_->live().heartbeat_ns.store(now_ns(), std::memory_order_relaxed);
    wake_.clear();  // before looking at what it may stand for
    // Before sessions are reaped: one that the device's end has ended is told of that.
    const Status device = check_device();
    if (parts.ok() && parts->size() == 2) {
      const auto& id = (*parts)[0];
      handle(Identity(reinterpret_cast<const char*>(id.data()), id.size()), (*parts)[1]);
    }
    answer_new();
    const bool stopping = stopping_.load(std::memory_order_acquire);
    const bool sign_due = next_sign.expired();
    if (sign_due) next_sign = Deadline::after(kSignInterval);
    check_counters();
    if (!told && !device.ok()) {
      end_all(device, device);
    } else if (!told && stopping) {
      end_all({StatusCode::kCancelled, "the server is shutting down"},
              {StatusCode::kUnavailable, "it is shutting down"});
    }
    for (auto& [identity, session] : sessions_) {
      if (sign_due) (void)send(identity, Sign{});
      session->silence().tick(now_ns());
      if (!session->answered()) session->silence().heard();  // it waits for us
      if (session->silence().silent_ns() > static_cast<std::uint64_t>(kClientSilence.count())) {
        session->end({StatusCode::kUnavailable, "no sign of life from the client for 10 s"});
      }
    }
    told |= stopping || !device.ok();
    reap();
    if (stopping && sessions_.empty()) all_ended_.store(true, std::memory_order_release);
  }
}

}  // namespace airlock
