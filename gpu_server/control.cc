#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <vector>

#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"
#include "gpu_server/server.h"

namespace airlock {

namespace {

// A runner that gives no sign for so long is gone.
constexpr std::chrono::nanoseconds kClientSilence = std::chrono::seconds(10);
// Of ended sessions, each by itself.
constexpr std::size_t kReportsKept = 1024;
// A session that has not been attached to for so long may be displaced by a newer one.
constexpr std::chrono::milliseconds kAttachTime{500};
constexpr std::chrono::milliseconds kShortOfMemory{20};
constexpr std::chrono::seconds kLookInterval{1};
// What one round does at most, so that no flood keeps signs of life from leaving.
constexpr int kNewcomersARound = 16;
constexpr int kMessagesARound = 4;
// Of one client between two signs of life. A runner sends one; those of a minute may come at once
// where this process was stopped.
constexpr std::size_t kMaxMessagesASign = 1024;

/// The oldest among those of `clients` that `counts` and whose peer has the most of them: one that
/// floods displaces itself. None: end().
template <typename Clients, typename Counts>
typename Clients::iterator pick_one_to_displace(Clients& clients, const Counts& counts) {
  std::map<std::string, std::size_t> by_peer;
  for (const auto& client : clients) {
    if (counts(client)) ++by_peer[client.peer];
  }
  auto picked = clients.end();
  for (auto client = clients.begin(); client != clients.end(); ++client) {
    if (counts(*client) &&
        (picked == clients.end() || by_peer[client->peer] > by_peer[picked->peer]))
      picked = client;
  }
  return picked;
}

}  // namespace

std::size_t Server::session_count() const {
  return static_cast<std::size_t>(std::ranges::count_if(
      clients_, [](const Client& client) { return client.session != nullptr; }));
}

// Those that have a place. One that is ending holds its place no more, so that a runner may follow
// another at once.
std::size_t Server::active_sessions() const {
  return static_cast<std::size_t>(std::ranges::count_if(clients_, [](const Client& client) {
    return client.session && client.session->attached() && !client.session->ending();
  }));
}

Status Server::full(std::size_t active) const {
  return {StatusCode::kResourceExhausted,
          "server full: {} of {} sessions are in use (--max-clients); try again later", active,
          options_.max_clients};
}

// A client that never attaches holds no place: they are given out here.
Status Server::admit(Session& session) {
  const std::lock_guard lock(mutex_);
  const std::size_t active = active_sessions();
  if (active >= options_.max_clients) return full(active);
  session.set_attached();
  counters_->live().sessions_started.fetch_add(1, std::memory_order_relaxed);
  sessions_.log(LogLevel::kInfo, fmt::format("session {:016x}: {}, privacy {}", session.epoch(),
                                             session.client(), name_of(session.privacy())));
  return {};
}

void Server::show_lease(Session& session, const SessionLease& lease) {
  const std::lock_guard lock(mutex_);
  // Of the pool not before the lock: figures of before would follow those of now.
  counters_->set_lease(session.block(), lease, pool_->figures());
}

void Server::close(Client& client) { client.connection.reset(); }

// The answer to a hello that led to no session.
void Server::refuse(Client& client, const std::string& who, const Status& why) {
  refused_.log(LogLevel::kWarning, fmt::format("refused {}: {}", who, why.message()));
  counters_->live().sessions_refused.fetch_add(1, std::memory_order_relaxed);
  if (client.connection) (void)client.connection->send(Refusal{why.code(), why.message()});
}

void Server::refuse_and_close(Client& client, const Status& why) {
  refuse(client, client.hello->client, why);
  close(client);
}

void Server::handle(Client& client, const ControlFrame& frame) {
  Session* const session = client.session.get();
  auto message = decode_control(frame.bytes);
  if (message.ok() && session == nullptr && !std::holds_alternative<Hello>(*message))
    message = Status(StatusCode::kProtocolError, "a control message before any hello");
  if (!message.ok()) {
    if (session != nullptr) return session->end(message.status());
    junk_.log(LogLevel::kWarning, fmt::format("{}: {}", client.peer, message.status().message()));
    if (message.status().code() == StatusCode::kVersionMismatch)
      counters_->live().sessions_refused.fetch_add(1, std::memory_order_relaxed);
    (void)client.connection->send(Refusal{message.status().code(), message.status().message()});
    return close(client);
  }
  if (session == nullptr) {
    if (client.hello)
      return refuse_and_close(client, {StatusCode::kProtocolError, "a second hello"});
    client.hello = std::get<Hello>(*message);
    client.hello_due = Deadline::after(kRoomPatience);
    return greet(client);
  }
  session->silence().heard();
  if (std::holds_alternative<Goodbye>(*message)) {
    session->end({StatusCode::kUnavailable, "the client said goodbye"});
  } else if (!std::holds_alternative<Sign>(*message)) {
    session->end({StatusCode::kProtocolError, "a control message that does not belong here"});
  }
}

void Server::read_from(Client& client) {
  for (int i = 0; client.connection && i < kMessagesARound; ++i) {
    auto frame = client.connection->receive();
    if (frame.ok() && !*frame) {
      client.is_readable = false;
      return;
    }
    if (frame.ok() && ++client.messages <= kMaxMessagesASign) {
      handle(client, **frame);
      continue;
    }
    Status status = frame.ok() ? Status(StatusCode::kProtocolError, "a flood of control messages")
                               : frame.status();
    if (client.session && status.code() == StatusCode::kUnavailable) {
      status = {StatusCode::kUnavailable,
                "the client closed its connection: it ended or was killed"};
    }
    if (client.session) {
      client.session->end(status);
    } else if (status.code() != StatusCode::kUnavailable) {
      if (status.code() == StatusCode::kVersionMismatch) client.connection->refuse_without_keys();
      junk_.log(LogLevel::kWarning, fmt::format("{}: {}", client.peer, status.message()));
    }
    close(client);
  }
}

Status Server::check_hello(const Hello& hello) const {
  RETURN_IF_ERROR(device_status());
  if (draining_.load(std::memory_order_acquire) || stopping_.load(std::memory_order_acquire)) {
    return {StatusCode::kUnavailable, "it is shutting down"};
  }
  if (const std::size_t active = active_sessions(); active >= options_.max_clients)
    return full(active);
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

// Those that are made and those that are ending are bounded too: they have memory and a thread.
Status Server::make_room_for_a_session() {
  if (session_count() >= kSessionsPerPlace * options_.max_clients) {
    return {StatusCode::kBusy, "server full: {} sessions are beginning or ending; try again later",
            session_count()};
  }
  const auto is_pending = [](const Client& client) {
    return client.session && !client.session->attached() && !client.session->ending();
  };
  const auto pending = static_cast<std::size_t>(std::ranges::count_if(clients_, is_pending));
  if (pending < options_.max_clients) return {};
  // Who has had time to attach gives way to who has not.
  const auto displaced = pick_one_to_displace(clients_, [&](const Client& client) {
    return is_pending(client) && client.session->age() > kAttachTime;
  });
  if (displaced == clients_.end())
    return {StatusCode::kBusy, "server full: {} clients are attaching; try again later", pending};
  displaced->session->end({StatusCode::kResourceExhausted,
                           "server full: the client has not attached to its session in time, and "
                           "others want to; try again later"});
  return {};
}

Result<std::unique_ptr<Session>> Server::make_session(const Hello& hello) {
  RETURN_IF_ERROR(check_hello(hello));
  RETURN_IF_ERROR(make_room_for_a_session());
  const BackendInfo& info = model_->compute->info();
  Welcome welcome;
  RETURN_IF_ERROR(name_session(welcome));
  welcome.has_ring = ring_on_ && hello.ring.choice == RingChoice::kOn;
  welcome.geometry = geometry_;
  welcome.path_limit = options_.path_limit.value_or(geometry_.slot_bytes);
  welcome.calibrates = options_.finds_path_limit && welcome.has_ring && hello.path_limit == 0;
  welcome.inline_bytes = hello.inline_bytes;
  welcome.capabilities = capabilities_of(std::min(
      data_sockets_for(options_.data_sockets, endpoint_), data_sockets_in(hello.capabilities)));
  if (hello.path_limit != 0 && hello.path_limit < welcome.path_limit) {
    welcome.path_limit = hello.path_limit;
    // Nothing larger goes there: what the slots would have more is saved, unless it is demanded.
    if (hello.ring.slot_bytes == 0) {
      // Both operands of a product fit behind one header.
      const auto needed = static_cast<std::uint32_t>(
          whole_pages(std::max(hello.path_limit, 2 * hello.inline_bytes)));
      welcome.geometry.slot_bytes =
          std::clamp(needed, std::uint32_t{limits::kMinSlotBytes}, geometry_.slot_bytes);
    }
  }
  const bool passes_memory = endpoint_.kind == Endpoint::Kind::kIpc && welcome.has_ring;
  welcome.has_pool =
      options_.pool.mode != PoolMode::kOff && passes_memory && wants_pool(hello.pool);
  welcome.dims = info.dims;
  welcome.digest = model_->digest;
  welcome.dtype = info.dtype;
  welcome.stored_dtype = model_->stored_dtype;
  welcome.threads = static_cast<std::uint32_t>(info.threads);
  welcome.device = info.device;
  welcome.fp64_products = info.fp64_products;
  welcome.config_bytes = static_cast<std::uint32_t>(model_->config_json.size());
  counters_layout::SessionBlock* block = nullptr;
  {
    const std::lock_guard lock(mutex_);
    block = counters_->open_session(welcome.epoch, hello.client, now_ns());
  }
  if (block == nullptr) {
    return Status(StatusCode::kResourceExhausted, "server full: sessions are still ending");
  }
  SessionGround ground{
      .model = *model_,
      .control = endpoint_,
      .security = security_.get(),
      .changed = wake_,
      .ended_log = ended_log_,
      .lacking_log = lacking_log_,
      .limit_log = limit_log_,
      .admit = [this](Session& session) { return admit(session); },
      .show_lease = [this](Session& session,
                           const SessionLease& lease) { show_lease(session, lease); },
      .pool = pool_.get(),
      .pool_wish = hello.pool,
      .privacy = hello.privacy,
      .int8_weights = hello.int8_weights};
  std::unique_ptr<Session> session;
  const Status started = without_exceptions([&]() -> Status {
    ASSIGN_OR_RETURN(session, Session::start(std::move(ground), std::move(welcome), hello.client,
                                             {*block, counters_->live().service_ns}));
    return {};
  });
  if (!started.ok()) {
    const std::lock_guard lock(mutex_);
    counters_->drop_session(*block);
    return started;
  }
  return session;
}

void Server::greet(Client& client) {
  auto session = make_session(*client.hello);
  if (session.status().code() == StatusCode::kBusy && !client.hello_due.expired()) return;
  if (!session.ok()) {
    const bool busy = session.status().code() == StatusCode::kBusy;
    return refuse_and_close(client,
                            {busy ? StatusCode::kResourceExhausted : session.status().code(),
                             session.status().message()});
  }
  client.hello.reset();
  const std::lock_guard lock(mutex_);
  client.session = std::move(session).value();
}

// Tells a client what its session's worker has for it. A session that is over then loses its
// connection, and after that its memory.
void Server::pass_news(Client& client) {
  Session& session = *client.session;
  // Before its last news is looked for.
  const bool over = session.over();
  while (auto news = session.take_news()) {
    if (!client.connection || client.is_told_the_end) continue;
    if (const auto* refusal = std::get_if<Refusal>(&news->message)) {
      refuse(client, session.client(), {refusal->code, refusal->message});
      client.is_told_the_end = true;
      continue;
    }
    std::vector<int> descriptors;
    for (const UniqueFd& fd : news->descriptors) descriptors.push_back(fd.get());
    if (const Status sent = client.connection->send(news->message, descriptors); !sent.ok()) {
      session.end({StatusCode::kUnavailable,
                   "the client could not be told of its session: " + sent.message()});
    } else if (std::holds_alternative<Attached>(news->message)) {
      client.is_attached = true;
    }
  }
  if (!over) return;
  if (client.connection && !client.is_told_the_end)
    (void)client.connection->send(Goodbye{session.reason().message()});
  close(client);
  // Where all end at once, honest runners may still read what came last; what they map goes with
  // them.
  session.release(!stopping_.load(std::memory_order_acquire) && device_status().ok());
}

void Server::watch_silence(Client& client) {
  Session& session = *client.session;
  session.silence().tick(now_ns());
  if (!client.is_attached) session.silence().heard();  // it waits for us
  if (session.silence().silent_ns() > static_cast<std::uint64_t>(kClientSilence.count()))
    session.end({StatusCode::kUnavailable, "no sign of life from the client for 10 s"});
}

// Clients that are through go; the statistics of their sessions stay.
void Server::reap() {
  for (auto client = clients_.begin(); client != clients_.end();) {
    const Session* const session = client->session.get();
    const bool stays = session != nullptr
                           ? client->connection || !session->finished()
                           : client->connection && (client->hello || !client->hello_due.expired());
    if (stays) {
      ++client;
      continue;
    }
    const std::lock_guard lock(mutex_);
    if (session == nullptr) {
      client = clients_.erase(client);
      continue;
    }
    const bool was_attached = session->attached();
    if (was_attached) {
      ended_.push_back(session->report());
      if (ended_.size() > kReportsKept) {
        ended_[1].merge_older(ended_[0]);
        ended_.pop_front();
      }
    }
    auto& block = client->session->block();
    client = clients_.erase(client);
    was_attached ? counters_->close_session(block) : counters_->drop_session(block);
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

// `told` is what clients read; one that is not attached yet is refused with it.
void Server::end_all(const Status& reason, const Status& told) {
  for (Client& client : clients_) {
    if (!client.session) {
      if (client.connection && client.hello)
        (void)client.connection->send(Refusal{told.code(), told.message()});
      close(client);
      continue;
    }
    if (client.connection && !client.is_told_the_end) {
      if (client.is_attached) {
        (void)client.connection->send(Goodbye{told.message()});
      } else {
        (void)client.connection->send(Refusal{told.code(), told.message()});
      }
      client.is_told_the_end = true;
    }
    client.session->end(reason);
  }
}

void Server::take_newcomers() {
  for (int i = 0; i < kNewcomersARound; ++i) {
    auto connection = listener_->accept();
    if (!connection) return;
    const auto is_stranger = [](const Client& client) {
      return client.connection && !client.session;
    };
    const auto strangers = static_cast<std::size_t>(std::ranges::count_if(clients_, is_stranger));
    const std::lock_guard lock(mutex_);
    if (strangers >= kMaxStrangers) clients_.erase(pick_one_to_displace(clients_, is_stranger));
    clients_.emplace_back(std::move(*connection));
  }
}

// Whether somebody wants to connect; each client knows then whether it is readable.
bool Server::wait_for_work(Deadline deadline) {
  // A negative descriptor is passed over.
  const int listening = listener_->is_resting() ? -1 : listener_->fd();
  std::vector<pollfd> waiting = {{listening, POLLIN, 0}, {wake_.fd(), POLLIN, 0}};
  for (const Client& client : clients_) {
    if (!client.connection) continue;
    const short events = client.connection->sending() ? POLLIN | POLLOUT : POLLIN;
    waiting.push_back({client.connection->fd(), client.connection->events(events), 0});
  }
  // What one had more than a round takes may lie in this process already.
  const bool is_more = std::ranges::any_of(
      clients_, [](const Client& client) { return client.connection && client.is_readable; });
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(
      is_more ? std::chrono::nanoseconds(0) : deadline.remaining());
  const bool woken = ::poll(waiting.data(), waiting.size(), static_cast<int>(left.count())) > 0;
  auto polled = waiting.begin() + 2;
  for (Client& client : clients_) {
    if (client.connection) client.is_readable |= woken && (polled++)->revents != 0;
  }
  return woken && waiting[0].revents != 0;
}

void Server::control_round() {
  const bool newcomers = wait_for_work(next_sign_);
  counters_->live().heartbeat_ns.store(now_ns(), std::memory_order_relaxed);
  control_pulse_.beat();
  wake_.clear();  // before looking at what it may stand for
  // Before sessions are reaped: one that the device's end has ended is told of that.
  const Status device = check_device();
  if (newcomers) take_newcomers();
  for (Client& client : clients_) {
    if (client.is_readable) read_from(client);
    if (client.hello && client.connection) greet(client);
  }
  const bool stopping = stopping_.load(std::memory_order_acquire);
  // A bit early where a peer's sign has woken us: the next two meet again.
  const bool sign_due = next_sign_.remaining() < kSignInterval / 2;
  if (sign_due) next_sign_ = Deadline::after(kSignInterval);
  check_counters();
  if (next_look_.expired()) {
    next_look_ = Deadline::after(kLookInterval);
    check_endpoint();
  }
  if (sign_due) {
    junk_.tell(LogLevel::kWarning, "control messages that are none");
    refused_.tell(LogLevel::kWarning, "clients refused");
    sessions_.tell(LogLevel::kInfo, "sessions");
    ended_log_.tell(LogLevel::kInfo, "ends of sessions");
    lacking_log_.tell(LogLevel::kInfo, "sessions that lack of the pool");
    limit_log_.tell(LogLevel::kInfo, "path limits that sessions found");
  }
  if (!told_the_end_ && !device.ok()) {
    end_all(device, device);
  } else if (!told_the_end_ && stopping) {
    end_all({StatusCode::kCancelled, "the server is shutting down"},
            {StatusCode::kUnavailable, "it is shutting down"});
  }
  for (Client& client : clients_) {
    if (!client.session) continue;
    pass_news(client);
    watch_silence(client);
    if (!client.connection) continue;
    if (sign_due) {
      client.messages = 0;
      // One that does not read misses some.
      (void)client.connection->send(Sign{});
    } else if (client.connection->sending()) {
      // Its end shows when it is read from.
      (void)client.connection->flush();
    }
  }
  told_the_end_ |= stopping || !device.ok();
  reap();
  if (draining_.load(std::memory_order_acquire) && session_count() == 0) drained_.set();
  if (stopping && session_count() == 0) all_ended_.store(true, std::memory_order_release);
}

void Server::control_loop() {
  while (!all_ended_.load(std::memory_order_acquire)) {
    const Status status = without_exceptions([this]() -> Status {
      control_round();
      return {};
    });
    if (status.ok()) continue;
    // Memory that is short now may be there in a moment; what was not done is done then.
    junk_.log(LogLevel::kError, status.message());
    std::this_thread::sleep_for(kShortOfMemory);
  }
}

}  // namespace airlock
