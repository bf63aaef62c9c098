#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>

#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/serve.h"
#include "tests/channel/channel_rigs.h"
#include "tests/hostile/raw_end.h"
#include "tests/hostile/run.h"

namespace airlock::hostile {
namespace {

using testing_rigs::make_end;
using testing_rigs::PoolPair;
using testing_rigs::SocketPair;
using testing_rigs::Transport;

constexpr int kMessages = 24;

/// serve() in a thread.
class HonestServer {
 public:
  HonestServer(Run& run, std::unique_ptr<Channel> channel, const PeerWatch& watch)
      : run_(run), channel_(std::move(channel)), compute_(run.cases().make_compute()) {
    context_.config_json = run.cases().config_json();
    context_.norms = run.cases().norms().view();
    context_.session_stats = [&run] { return run.cases().stats_json(); };
    context_.watch = &watch;
    context_.op_timeout = std::chrono::seconds(5);
    thread_ = std::thread([this] {
      status_ = serve(*channel_, *compute_, context_, op_stats_);
      ended_.store(true, std::memory_order_release);  // pairs with ended()
    });
  }
  ~HonestServer() {
    if (thread_.joinable()) thread_.join();
  }
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  /// Why the session ended, which it must, soon.
  Status join() {
    const Deadline deadline = Deadline::after(kWatchdog);
    while (!ended() && !deadline.expired())
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    run_.demand(ended(), "the server has not ended the session");
    if (thread_.joinable()) thread_.join();
    return status_;
  }

 private:
  Run& run_;
  const std::unique_ptr<Channel> channel_;
  const std::unique_ptr<Compute> compute_;
  ServeContext context_;
  OpStatsTable op_stats_;
  Status status_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

Result<std::vector<std::size_t>> sizes_of_reply(std::span<const std::byte> header) {
  ASSIGN_OR_RETURN(const ResponseHeader response, decode_response(header));
  return sizes_of(response.results);
}

class ClientSession {
 public:
  ClientSession(Run& run, std::uint64_t seed)
      : run_(run),
        random_(seed),
        segments_(run.begin_session(seed)),
        has_ring_(random_() % 8 != 0),
        pool_(has_ring_ && random_() % 2 != 0 ? std::make_unique<PoolPair>() : nullptr),
        inline_bytes_(random_() % 3 == 0 ? kInlineBytes : 0),
        sockets_(Transport::kIpc),
        server_(run, make_channel(), life_) {
    end_.emplace(RawEnd::Options{std::move(sockets_.runner), has_ring_, Segments::kRequest,
                                 [this] { return gone(); },
                                 pool_ ? &pool_->lease->pool_map() : nullptr, inline_bytes_},
                 segments_);
  }

  void talk() {
    for (int left = kMessages; left > 0 && say_something(); --left) {
    }
    life_.end({StatusCode::kUnavailable, "the client fell silent"});
    if (has_ring_) RawEnd::ring_bells(segments_);
    end_.reset();
    const Status status = server_.join();
    const StatusCode code = status.code();
    // No memory: for what a header claims.
    run_.demand(code == StatusCode::kUnavailable || code == StatusCode::kProtocolError ||
                    code == StatusCode::kResourceExhausted,
                "the server ended with {}", status.to_string());
    run_.demand(!clean_ || code == StatusCode::kUnavailable,
                "the server refused an honest session: {}", status.to_string());
  }

 private:
  std::unique_ptr<Channel> make_channel() {
    const PoolMap leased = pool_ ? pool_->server_map() : PoolMap();
    return make_end(std::move(sockets_.server), &life_,
                    has_ring_ ? segments_.honest(Segments::kReply) : nullptr,
                    has_ring_ ? segments_.honest(Segments::kRequest) : nullptr,
                    pool_ ? &leased : nullptr, {}, inline_bytes_);
  }

  /// Of the operands and of the results: as an honest client would choose them.
  std::vector<PoolPlace> choose_places(const Case& asked) const {
    std::vector<PoolPlace> places;
    // How much the stats have only the server knows.
    if (!pool_ || asked.spec.op == Op::kStats) return places;
    std::vector<PoolBlock> blocks;
    const auto choose = [&](PoolUse use, const std::vector<TensorDesc>& descs) {
      const MessagePlan plan = plan_message(policy(), sizes_of(descs)).value();
      for (const MessagePlan::Tensor& tensor : plan.tensors()) {
        PoolPlace& place = places.emplace_back();
        if (tensor.path != Path::kPool) continue;
        if (auto block = pool_->lease->take(use, tensor.bytes)) {
          place = block->place();
          blocks.push_back(std::move(*block));
        }
      }
    };
    choose(PoolUse::kInput, asked.spec.inputs);
    choose(PoolUse::kOutput, asked.reply.results);
    return places;
  }
  PathPolicy policy() const {
    return testing_rigs::policy_of(has_ring_, pool_ != nullptr, inline_bytes_);
  }
  /// Whether the server can tell that these places are none for such a request.
  bool refuses(const RequestHeader& request, const std::vector<TensorDesc>& results) const {
    const std::span<const PoolPlace> places = request.places;
    if (places.empty()) return false;
    const std::size_t inputs = request.spec.inputs.size();
    if (places.size() != inputs + results.size()) return true;
    const auto refused = [&](const std::vector<TensorDesc>& descs, auto part) {
      MessagePlan plan = plan_message(policy(), sizes_of(descs)).value();
      if (!place_in_pool(plan, part).ok()) return true;
      return std::ranges::any_of(plan.tensors(), [&](const MessagePlan::Tensor& tensor) {
        return tensor.path == Path::kPool &&
               pool_->lease->pool_map().find(tensor.place, tensor.bytes) == nullptr;
      });
    };
    return refused(request.spec.inputs, places.first(inputs)) ||
           refused(results, places.subspan(inputs));
  }

  /// What a request with this header must meet, in place of that of `honest`.
  Outcome judge(const Bytes& header, const Case& honest) const {
    const auto request = decode_request(header);
    if (!request.ok()) return Outcome::kRefused;
    const OpSpec& spec = request->spec;
    if (spec == honest.spec) {
      if (refuses(*request, honest.reply.results)) return Outcome::kRefused;
      return request->places == places_ ? Outcome::kTaken : Outcome::kAny;
    }
    if (!is_computed(spec.op) && !spec.inputs.empty()) return Outcome::kRefused;
    const bool sized_by_server = spec.op == Op::kInit || spec.op == Op::kStats;
    if (!sized_by_server && !op_results(spec, run_.cases().model().info().dims).ok())
      return Outcome::kRefused;
    return Outcome::kAny;
  }

  /// One request, mutated or not, and what comes of it. False: the session is over.
  bool say_something() {
    const Case& asked = run_.cases().all()[random_() % run_.cases().all().size()];
    places_ = choose_places(asked);
    const std::span<const PoolPlace> places = places_;
    const std::size_t inputs = std::min(asked.inputs.size(), places_.size());
    result_places_ = {places_.begin() + static_cast<std::ptrdiff_t>(inputs), places_.end()};
    Draft draft = end_->draft(encode(RequestHeader{next_id_++, asked.spec, places_}), asked.inputs,
                              places.first(inputs));
    if (has_ring_ && random_() % 4 == 0)
      run_.words().remember(segments_, Segments::kRequest, random_);
    mutation_ = choose_mutation(random_);
    const Bytes honest_header = draft.header;
    auto outcome = change(mutation_, draft, earlier_, random_);
    if (outcome && draft.header != honest_header) outcome = judge(draft.header, asked);
    if (mutation_ == Mutation::kHangUp) return hang_up(std::move(draft));
    if (mutation_ == Mutation::kUnread) outcome = leave_unread();
    run_.begin(mutation_);
    if (!end_->send(draft, room_time())) return lose_patience();
    // Only now: a ring that this end spoiled itself is of no use to it either.
    if (mutation_ == Mutation::kPoolBytes && pool_) {
      spoil_pool();
      outcome = Outcome::kTakenAsItIs;
    }
    if (!outcome && has_ring_)
      outcome = run_.words().rewrite(mutation_, segments_, Segments::kRequest, random_);
    if (!outcome) mutation_ = Mutation::kNone;
    earlier_.push_back(draft);
    // What was done to the ring of replies shows when there is another one to send.
    if (mutation_ == Mutation::kSuperblock) (void)send_unread();
    return await(outcome.value_or(Outcome::kTaken), draft.header, asked);
  }

  /// While the server computes from there and writes there.
  void spoil_pool() {
    for (const auto bytes : pool_->lease->pool_map().spans()) {
      for (int left = 64; left > 0; --left)
        bytes[random_() % bytes.size()] = static_cast<std::byte>(random_());
    }
  }

  /// More requests than there is room for replies, none of which is read meanwhile.
  Outcome leave_unread() {
    for (int left = 12; left > 0 && send_unread(); --left) {
    }
    return Outcome::kAny;
  }
  bool send_unread() {
    return end_->send(end_->draft(encode(RequestHeader{kUnreadId, OpSpec{}}), {}),
                      Deadline::after(kPatience));
  }
  Status gone() const {
    return server_.ended() ? Status(StatusCode::kUnavailable, "the server has ended") : Status();
  }
  /// An honest peer gives its slots back as soon as it comes to it.
  Deadline room_time() const {
    return clean_ ? Deadline::after(kWatchdog) : Deadline::after(kPatience);
  }

  bool hang_up(Draft draft) {
    run_.begin(mutation_);
    if (draft.frames.size() > 1) draft.frames.resize(1 + random_() % (draft.frames.size() - 1));
    (void)end_->send(draft, room_time());
    clean_ = false;
    end_.reset();
    run_.count(mutation_, End::kSilent);
    return false;
  }

  /// What the server does next must be what `outcome` says.
  bool await(Outcome outcome, const Bytes& header, const Case& asked) {
    const bool sure = clean_ && outcome != Outcome::kAny;
    clean_ = clean_ && (outcome == Outcome::kTaken || outcome == Outcome::kTakenAsItIs);
    const Deadline deadline = sure ? Deadline::after(kWatchdog) : Deadline::after(kPatience);
    while (!deadline.expired() && !server_.ended()) {
      const auto reply = end_->receive(sizes_of_reply, deadline.slice(std::chrono::milliseconds(1)),
                                       result_places_);
      if (!reply) {
        if (!end_->broken()) continue;
        if (!sure) return lose_patience();
        std::this_thread::sleep_for(std::chrono::microseconds(100));
        continue;
      }
      if (!check_reply(*reply, header, asked, sure && outcome == Outcome::kTaken)) continue;
      if (outcome != Outcome::kRefused || !sure) {
        run_.count(mutation_, End::kTaken);
        return true;
      }
      // A superblock that was rewritten behind a message that had been taken.
      run_.demand(mutation_ == Mutation::kSuperblock, "the server answered what it must refuse: {}",
                  name_of(mutation_));
    }
    if (server_.ended()) {
      run_.demand(!sure || outcome == Outcome::kRefused,
                  "the server ended the session at a message that it must take ({}): {}",
                  name_of(mutation_), server_.join().to_string());
      const Status status = server_.join();
      run_.demand(!sure || status.code() == StatusCode::kProtocolError,
                  "the server ended with {} instead of a protocol error", status.to_string());
      run_.count(mutation_, End::kRefused);
      return false;
    }
    run_.demand(!sure, "no answer and no end: {}, {} ({})", name_of(asked.spec.op),
                outcome == Outcome::kRefused ? "to be refused" : "to be taken", name_of(mutation_));
    return lose_patience();
  }

  bool lose_patience() {
    clean_ = false;
    run_.count(mutation_, server_.ended() ? End::kRefused : End::kSilent);
    return false;
  }

  /// False: it was one to a request that was left unread. `exact`: it has to be the right one.
  bool check_reply(const RawEnd::Received& reply, const Bytes& header, const Case& asked,
                   bool exact) {
    const ResponseHeader response = decode_response(reply.header).value();
    if (response.request_id == kUnreadId) return false;
    const auto request = decode_request(header);
    run_.demand(request.ok(), "the server answered a header that nobody can read");
    run_.demand(response.request_id == request->request_id && response.op == request->spec.op,
                "the server answered request {} with {}", request->request_id, response.request_id);
    if (response.code == StatusCode::kOk && is_computed(request->spec.op)) {
      const auto results = op_results(request->spec, run_.cases().model().info().dims);
      run_.demand(results.ok() && response.results == *results,
                  "the server's results have other shapes than the request implies");
    }
    if (!exact) return true;
    run_.demand(response.code == StatusCode::kOk, "{} was answered with an error: {}",
                name_of(asked.spec.op), response.message);
    run_.demand(response.results == asked.reply.results && reply.tensors == asked.results,
                "the results of {} are not the right ones", name_of(asked.spec.op));
    return true;
  }

  static constexpr std::uint64_t kUnreadId = 0x7777777777777777;

  Run& run_;
  std::mt19937_64 random_;
  Segments& segments_;
  const bool has_ring_;
  const std::unique_ptr<PoolPair> pool_;
  const std::size_t inline_bytes_;
  PeerLife life_;
  SocketPair sockets_;
  HonestServer server_;
  std::optional<RawEnd> end_;
  std::vector<Draft> earlier_;
  std::uint64_t next_id_ = 1;
  /// Of the request that was made last, and those of them that are its results'.
  std::vector<PoolPlace> places_;
  std::vector<PoolPlace> result_places_;
  Mutation mutation_ = Mutation::kNone;
  /// Nothing was done so far that the server may hold against this end.
  bool clean_ = true;
};

}  // namespace

void hostile_client_session(Run& run, std::uint64_t seed) { ClientSession(run, seed).talk(); }

}  // namespace airlock::hostile
