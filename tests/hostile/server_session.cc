#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/remote_backend.h"
#include "tests/channel/channel_rigs.h"
#include "tests/hostile/raw_end.h"
#include "tests/hostile/run.h"

namespace airlock::hostile {
namespace {

using testing_rigs::make_end;
using testing_rigs::SocketPair;
using testing_rigs::Transport;

constexpr int kOps = 24;
constexpr std::size_t kMostUnderWay = 3;
/// How long the hostile server leaves a runner alone that has to find out by itself.
constexpr std::chrono::milliseconds kTimeToRefuse{5000};
/// The same, where it may have no cause to look: it waits for a reply, and the ring by which it
/// sends is spoiled.
constexpr std::chrono::milliseconds kTimeToLook{200};

/// What the runner must make of the reply to one request.
struct Expectation {
  Mutation mutation = Mutation::kNone;
  Outcome outcome = Outcome::kAny;
  /// Nothing was done before that the runner may hold against the server.
  bool clean = false;
  /// A tensor's bytes may be others than the right ones, and nobody can tell.
  bool any_bytes = false;
  /// Of a reply that says an error.
  std::optional<StatusCode> error;
};

/// What both threads know of a session. Thread-safe.
class Ledger {
 public:
  void put(std::uint64_t id, const Expectation& expectation) {
    const std::lock_guard lock(mutex_);
    expectations_[id] = expectation;
  }
  Expectation get(std::uint64_t id) const {
    const std::lock_guard lock(mutex_);
    const auto found = expectations_.find(id);
    Expectation expectation = found == expectations_.end() ? Expectation() : found->second;
    expectation.clean = expectation.clean && !spoiled.load();
    return expectation;
  }
  /// Replies that were sent before may be lost or damaged: words of the rings were rewritten, or
  /// the connection was closed.
  std::atomic<bool> spoiled{false};
  /// From here on bytes in shared memory may be any.
  std::atomic<bool> any_bytes{false};
  /// The superblock is not what was agreed: the next op has to find it.
  std::atomic<bool> must_end{false};
  std::atomic<bool> stop{false};

 private:
  mutable std::mutex mutex_;
  std::map<std::uint64_t, Expectation> expectations_;
};

/// Answers what a runner asks; one thread.
class HostileServer {
 public:
  HostileServer(Run& run, Segments& segments, RawEnd::Options options, std::uint64_t seed,
                PeerLife& life, Ledger& ledger)
      : run_(run),
        segments_(segments),
        has_ring_(options.has_ring),
        random_(seed),
        life_(life),
        ledger_(ledger) {
    end_.emplace(std::move(options), segments);
  }

  void serve() {
    Deadline idle = Deadline::after(kTimeToRefuse);
    while (!ledger_.stop.load()) {
      if (!clean_ && idle.expired()) fall_silent();
      std::optional<RawEnd::Received> request;
      if (end_ && !end_->broken()) {
        request = end_->receive(sizes_of_request, Deadline::after(std::chrono::milliseconds(1)));
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
      if (!request) continue;
      const auto asked = decode_request(request->header);
      const Case* const found = asked.ok() ? run_.cases().find(asked->spec) : nullptr;
      if (found == nullptr) continue;  // this end has spoiled what it reads
      run_.demand(!clean_ || ledger_.any_bytes.load() || request->tensors == found->inputs,
                  "the inputs of {} did not come as they were sent", name_of(found->spec.op));
      idle = Deadline::after(answer(asked->request_id, *found));
    }
  }

 private:
  static Result<std::vector<std::size_t>> sizes_of_request(std::span<const std::byte> header) {
    ASSIGN_OR_RETURN(const RequestHeader request, decode_request(header));
    return sizes_of(request.spec.inputs);
  }

  void fall_silent() {
    ledger_.spoiled = true;
    life_.end({StatusCode::kUnavailable, "the server fell silent"});
    if (has_ring_) RawEnd::ring_bells(segments_);
  }

  /// What a reply with this header must meet, in place of the right one to request `id`.
  Expectation judge(const Bytes& header, std::uint64_t id, const Case& right) const {
    Expectation expected;
    const auto response = decode_response(header);
    if (!response.ok() || response->request_id != id || response->op != right.spec.op) {
      expected.outcome = Outcome::kRefused;
      return expected;
    }
    if (response->code != StatusCode::kOk) {
      expected.error = response->code;
      return expected;
    }
    const bool same = response->results == right.reply.results;
    expected.outcome = same ? Outcome::kTaken : Outcome::kRefused;
    // The one reply whose size is the server's word.
    if (!same && right.spec.op == Op::kStats && response->results.size() == 1) {
      expected.outcome = Outcome::kAny;
      expected.any_bytes = true;
    }
    return expected;
  }

  /// How long the runner may be left alone with what it got.
  std::chrono::milliseconds answer(std::uint64_t id, const Case& right) {
    ResponseHeader header = right.reply;
    header.request_id = id;
    header.queue_ns = random_() % 1000;
    header.server_ns = random_() % 1000;
    Draft draft = end_->draft(encode(header), right.results);
    if (has_ring_ && random_() % 4 == 0)
      run_.words().remember(segments_, Segments::kReply, random_);
    Mutation mutation = choose_mutation(random_);
    run_.begin(mutation);
    Expectation expected;
    const Bytes honest_header = draft.header;
    auto outcome = change(mutation, draft, earlier_, random_);
    if (outcome) expected.outcome = *outcome;
    if (outcome && draft.header != honest_header) expected = judge(draft.header, id, right);
    const bool of_words = !outcome && has_ring_ && is_of_words(mutation);
    const bool silent = mutation == Mutation::kUnread || mutation == Mutation::kHangUp;
    if (!outcome && !of_words && !silent) {
      mutation = Mutation::kNone;
      expected.outcome = Outcome::kTaken;
    }
    // A reply that was never sent may come by its header alone, in front of a later one's tensors.
    expected.any_bytes =
        expected.any_bytes || mutation == Mutation::kFrameTwice || mutation == Mutation::kUnread;
    if (of_words) expected = expect_of_words(mutation);
    expected.mutation = mutation;
    expected.clean = clean_;
    ledger_.put(id, expected);
    send(draft, mutation);
    clean_ = clean_ &&
             (expected.outcome == Outcome::kTaken || expected.outcome == Outcome::kTakenAsItIs);
    if (of_words && !run_.words().rewrite(mutation, segments_, Segments::kReply, random_))
      mutation = Mutation::kNone;
    // The runner finds it at its next op, whether it took this reply or not.
    if (mutation == Mutation::kSuperblock) ledger_.must_end = true;
    earlier_.push_back(std::move(draft));
    if (mutation == Mutation::kSuperblock) return kTimeToLook;
    return expected.clean && expected.outcome == Outcome::kRefused ? kTimeToRefuse : kPatience;
  }

  void send(const Draft& draft, Mutation mutation) {
    if (mutation == Mutation::kUnread) return;  // it is never answered
    const Deadline room_time = clean_ ? Deadline::after(kWatchdog) : Deadline::after(kPatience);
    if (mutation != Mutation::kHangUp) {
      (void)end_->send(draft, room_time);
      return;
    }
    Draft half = draft;
    if (half.frames.size() > 1) half.frames.resize(1 + random_() % (half.frames.size() - 1));
    (void)end_->send(half, room_time);
    ledger_.spoiled = true;
    end_.reset();
  }

  static bool is_of_words(Mutation mutation) {
    return mutation >= Mutation::kSuperblock && mutation <= Mutation::kTruncation;
  }

  Expectation expect_of_words(Mutation mutation) {
    Expectation expected;
    if (mutation == Mutation::kBell) expected.outcome = Outcome::kTaken;
    if (mutation == Mutation::kPayload) expected.outcome = Outcome::kTakenAsItIs;
    // Of replies that were taken and not looked at yet, too.
    if (mutation == Mutation::kPayload || mutation == Mutation::kTruncation)
      ledger_.any_bytes = true;
    if (mutation != Mutation::kBell && mutation != Mutation::kPayload) ledger_.spoiled = true;
    return expected;
  }

  Run& run_;
  Segments& segments_;
  const bool has_ring_;
  std::mt19937_64 random_;
  PeerLife& life_;
  Ledger& ledger_;
  std::optional<RawEnd> end_;
  std::vector<Draft> earlier_;
  bool clean_ = true;
};

class ServerSession {
 public:
  ServerSession(Run& run, std::uint64_t seed)
      : run_(run),
        random_(seed),
        segments_(run.begin_session(seed)),
        has_ring_(random_() % 8 != 0),
        inline_bytes_(random_() % 3 == 0 ? kInlineBytes : 0),
        hasty_(random_() % 32 == 0),
        sockets_(Transport::kIpc),
        channel_(make_end(std::move(sockets_.runner), &life_,
                          has_ring_ ? segments_.honest(Segments::kRequest) : nullptr,
                          has_ring_ ? segments_.honest(Segments::kReply) : nullptr, nullptr, {},
                          inline_bytes_)),
        server_(run, segments_,
                {std::move(sockets_.server), has_ring_, Segments::kReply,
                 [this] {
                   return ledger_.stop.load()
                              ? Status(StatusCode::kUnavailable, "the runner has ended")
                              : Status();
                 },
                 nullptr, inline_bytes_},
                random_(), life_, ledger_) {}

  void talk() {
    std::thread thread([this] { server_.serve(); });
    {
      RemoteBackend backend(run_.cases().model().info(), *channel_, op_stats_);
      for (int left = kOps; left > 0 && ask(backend); --left) {
      }
      while (!over_ && !under_way_.empty() && finish_first()) {
      }
      run_.demand(over_ || !ledger_.must_end.load() || finds_the_end(backend),
                  "the runner went on over another superblock");
      under_way_.clear();
    }
    channel_.reset();
    ledger_.stop = true;
    thread.join();
  }

 private:
  struct Asked {
    std::uint64_t id;
    const Case* asked;
    std::unique_ptr<Pending> pending;
    /// A watchdog's time after its deadline.
    Deadline too_late;
  };

  Deadline op_deadline() const {
    return hasty_ ? Deadline::after(std::chrono::milliseconds(20)) : Deadline::after(kWatchdog);
  }

  bool finds_the_end(RemoteBackend& backend) {
    return backend.ping(op_deadline()).code() == StatusCode::kProtocolError;
  }

  /// One more op; where enough are under way, the oldest one's end first. False: the session is
  /// over.
  bool ask(RemoteBackend& backend) {
    const auto& all = run_.cases().all();
    const Case& asked = all[random_() % all.size()];
    const bool of_session = !is_computed(asked.spec.op);
    const std::size_t room = of_session ? 0 : random_() % kMostUnderWay;
    while (under_way_.size() > room) {
      if (!finish_first()) return false;
    }
    if (of_session) return ask_session(backend, asked);
    const Deadline too_late = Deadline::after(2 * kWatchdog);
    auto pending = backend.prepare(asked.spec, op_deadline());
    if (!pending.ok()) return fail(pending.status());
    for (std::size_t i = 0; i < asked.inputs.size(); ++i)
      std::ranges::copy(asked.inputs[i], (*pending)->input(i).bytes().begin());
    const std::uint64_t id = next_id_++;
    under_way_.push_back({id, &asked, std::move(*pending), too_late});
    const Status submitted = under_way_.back().pending->submit();
    return submitted.ok() || fail(submitted);
  }

  /// Ops that the backend itself waits for.
  bool ask_session(RemoteBackend& backend, const Case& asked) {
    const std::uint64_t id = next_id_++;
    std::string text;
    Tensor norms;
    Status status;
    if (asked.spec.op == Op::kPing) status = backend.ping(op_deadline());
    if (asked.spec.op == Op::kInit) {
      status = backend.init(run_.cases().config_json().size(), text, norms, op_deadline());
    }
    if (asked.spec.op == Op::kStats) {
      const auto stats = backend.session_stats(op_deadline());
      status = stats.status();
      if (stats.ok()) text = *stats;
    }
    if (!status.ok()) return judge_failure(id, status);
    bool right = asked.spec.op == Op::kPing;
    if (asked.spec.op == Op::kStats) right = text == run_.cases().stats_json();
    if (asked.spec.op == Op::kInit) {
      right = text == run_.cases().config_json() &&
              std::ranges::equal(norms.view().bytes(), asked.results[1]);
    }
    return judge_success(id, asked, right);
  }

  bool finish_first() {
    Asked& first = under_way_.front();
    const Status status = first.pending->wait();
    run_.demand(!first.too_late.expired(), "an op ended long after its deadline");
    if (!status.ok()) return judge_failure(first.id, status);
    bool right = true;
    for (std::size_t i = 0; i < first.asked->results.size(); ++i) {
      const TensorView result = first.pending->result(i);
      run_.demand(result.desc == first.asked->reply.results[i], "a result of another shape");
      right = right && std::ranges::equal(result.bytes(), first.asked->results[i]);
    }
    const bool on = judge_success(first.id, *first.asked, right);
    under_way_.pop_front();
    return on;
  }

  /// A failure that shows in another call than its own op's belongs to the oldest one.
  bool fail(const Status& status) {
    return judge_failure(under_way_.empty() ? next_id_ : under_way_.front().id, status);
  }

  bool judge_success(std::uint64_t id, const Case& asked, bool right) {
    const Expectation expected = ledger_.get(id);
    run_.demand(expected.outcome != Outcome::kRefused || !expected.clean,
                "the runner took a reply that it must refuse: {} to {}", name_of(expected.mutation),
                name_of(asked.spec.op));
    run_.demand(!expected.error, "the runner took an error for a result");
    run_.demand(right || expected.any_bytes || ledger_.any_bytes.load(),
                "the runner took a wrong tensor: {} to {}", name_of(expected.mutation),
                name_of(asked.spec.op));
    run_.count(expected.mutation, End::kTaken);
    return true;
  }

  bool judge_failure(std::uint64_t id, const Status& status) {
    over_ = true;
    const Expectation expected = ledger_.get(id);
    const StatusCode code = status.code();
    const bool late = hasty_ && code == StatusCode::kDeadlineExceeded;
    const bool must_take =
        expected.outcome == Outcome::kTaken || expected.outcome == Outcome::kTakenAsItIs;
    run_.demand(late || !expected.clean || !must_take,
                "the runner refused a reply that it must take: {}: {}", name_of(expected.mutation),
                status.to_string());
    run_.demand(late || !expected.clean || expected.outcome != Outcome::kRefused ||
                    code == StatusCode::kProtocolError,
                "the runner failed with {} instead of a protocol error: {}", status.to_string(),
                name_of(expected.mutation));
    run_.demand(late || !expected.clean || !expected.error || code == *expected.error ||
                    code == StatusCode::kProtocolError || code == StatusCode::kUnavailable,
                "the server's error {} came as {}", name_of(expected.error.value_or(code)),
                status.to_string());
    run_.demand(code == StatusCode::kProtocolError || code == StatusCode::kUnavailable || late ||
                    expected.error || code == StatusCode::kResourceExhausted,
                "the runner failed with {}", status.to_string());
    run_.count(expected.mutation,
               code == StatusCode::kProtocolError || expected.error ? End::kRefused : End::kSilent);
    return false;
  }

  Run& run_;
  std::mt19937_64 random_;
  Segments& segments_;
  const bool has_ring_;
  const std::size_t inline_bytes_;
  /// Its ops have short deadlines.
  const bool hasty_;
  PeerLife life_;
  Ledger ledger_;
  SocketPair sockets_;
  std::unique_ptr<Channel> channel_;
  OpStatsTable op_stats_;
  HostileServer server_;
  std::deque<Asked> under_way_;
  std::uint64_t next_id_ = 1;
  bool over_ = false;
};

}  // namespace

void hostile_server_session(Run& run, std::uint64_t seed) { ServerSession(run, seed).talk(); }

}  // namespace airlock::hostile
