#include "tests/hostile/draft.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "proto/message.h"
#include "proto/wire.h"
#include "runtime/channel/frame.h"
#include "tests/channel/channel_rigs.h"

namespace airlock::hostile {
namespace {

using testing_rigs::kEpoch;

std::size_t below(std::size_t count, std::mt19937_64& random) { return random() % count; }

/// Where the unsigned numbers lie in a header of ours: offset and bytes of each.
std::vector<std::pair<std::size_t, std::size_t>> numbers_in(const Bytes& header) {
  std::vector<std::pair<std::size_t, std::size_t>> numbers;
  for (std::size_t at = 0; at < header.size();) {
    const auto head = std::to_integer<unsigned>(header[at]);
    std::size_t bytes = 1;  // an array of at most 15, or a number below 128
    if (head >= 0xcc && head <= 0xcf) bytes = 1 + (std::size_t{1} << (head - 0xcc));
    if (head < 0x80 || bytes > 1) numbers.emplace_back(at, bytes);
    const bool is_text = (head >= 0xa0 && head <= 0xbf) || head == 0xd9 || head == 0xda;
    if (head >= 0xa0 && head <= 0xbf) bytes += head - 0xa0;
    if (is_text && head >= 0xd9) break;  // an error's text: what follows is not worth it
    at += bytes;
  }
  return numbers;
}

void change_number(Bytes& header, std::mt19937_64& random) {
  const auto numbers = numbers_in(header);
  if (numbers.empty()) return;
  const auto [at, bytes] = numbers[below(numbers.size(), random)];
  std::uint64_t was = 0;
  for (std::size_t i = bytes == 1 ? 0 : 1; i < bytes && at + i < header.size(); ++i)
    was = (was << 8) | std::to_integer<std::uint64_t>(header[at + i]);
  WireWriter writer;
  writer.number("", odd_number(was, random));
  const Bytes now = std::move(writer).take();
  const auto place = header.begin() + static_cast<std::ptrdiff_t>(at);
  const auto end =
      header.begin() + static_cast<std::ptrdiff_t>(std::min(at + bytes, header.size()));
  header.insert(header.erase(place, end), now.begin(), now.end());
}

Bytes junk(std::size_t bytes, std::mt19937_64& random) {
  Bytes made(bytes);
  for (std::byte& byte : made) byte = static_cast<std::byte>(random() & 0xffU);
  return made;
}

bool change_header(Mutation mutation, Bytes& header, const std::vector<Draft>& earlier,
                   std::mt19937_64& random) {
  static constexpr unsigned char kHeads[] = {0x90, 0x9f, 0xdc, 0xdd, 0xde, 0xa0, 0xbf, 0xd9, 0xdb,
                                             0xc4, 0xc7, 0xca, 0xcc, 0xcf, 0xd0, 0xc0, 0xc1, 0xff};
  switch (mutation) {
    case Mutation::kHeaderBits:
      for (std::size_t left = 1 + below(3, random); left > 0; --left)
        header[below(header.size(), random)] ^= static_cast<std::byte>(1U << below(8, random));
      return true;
    case Mutation::kHeaderByte:
      header[below(header.size(), random)] =
          static_cast<std::byte>(kHeads[below(sizeof(kHeads), random)]);
      return true;
    case Mutation::kHeaderNumber:
      change_number(header, random);
      return true;
    case Mutation::kHeaderCut:
      header.resize(below(header.size(), random));
      return true;
    case Mutation::kHeaderGrown:
      header.resize(
          header.size() + 1 + below(limits::kMaxEncodedHeaderBytes + 200 - header.size(), random),
          static_cast<std::byte>(random() & 0xffU));
      header.resize(std::min(header.size(), limits::kHeaderBytes));
      return true;
    case Mutation::kHeaderJunk:
      header = junk(below(200, random), random);
      return true;
    case Mutation::kHeaderReplayed:
      if (earlier.empty()) return false;
      header = earlier[below(earlier.size(), random)].header;
      return true;
    case Mutation::kHeaderOfTheOtherSide:
      header = decode_request(header).ok() ? encode(ResponseHeader{}) : encode(RequestHeader{});
      return true;
    default:
      return false;
  }
}

/// Of the opening in frames[0].
void change_opening(Bytes& frame, std::size_t offset, std::mt19937_64& random) {
  std::uint64_t number = 0;
  std::memcpy(&number, frame.data() + offset, sizeof(number));
  const std::uint64_t was = number;
  while (number == was) number = odd_number(was, random);
  std::memcpy(frame.data() + offset, &number, sizeof(number));
}

std::optional<Outcome> change_frames(Mutation mutation, Draft& draft,
                                     const std::vector<Draft>& earlier, std::mt19937_64& random) {
  auto& frames = draft.frames;
  if (mutation == Mutation::kFrameUnasked) {
    frames.push_back(junk(below(100, random), random));
    return Outcome::kAny;
  }
  if (frames.empty()) return std::nullopt;
  const std::size_t which = below(frames.size(), random);
  Bytes& frame = frames[which];
  switch (mutation) {
    case Mutation::kFrameMissing:
      frames.erase(frames.begin() + static_cast<std::ptrdiff_t>(which));
      return Outcome::kAny;
    case Mutation::kFrameTwice:
      frames.insert(frames.begin() + static_cast<std::ptrdiff_t>(which), Bytes(frame));
      return Outcome::kAny;
    case Mutation::kFrameCut:
      if (frame.empty()) return std::nullopt;
      frame.resize(below(frame.size(), random));
      return Outcome::kRefused;
    case Mutation::kFrameGrown:
      frame.resize(frame.size() + 1 + below(5000, random));
      return Outcome::kRefused;
    case Mutation::kFramesSwapped:
      if (frames.size() < 2 || frames[0] == frames[1]) return std::nullopt;
      std::swap(frames[0], frames[1]);
      return Outcome::kRefused;
    case Mutation::kOpeningEpoch:
      change_opening(frames[0], 0, random);
      return Outcome::kRefused;
    case Mutation::kOpeningSequence:
      change_opening(frames[0], sizeof(std::uint64_t), random);
      return Outcome::kRefused;
    case Mutation::kOpeningReplayed: {
      const auto other =
          std::ranges::find_if(earlier, [&](const Draft& sent) { return !sent.frames.empty(); });
      if (other == earlier.end()) return std::nullopt;
      frames[0] = other->frames[0];
      return Outcome::kRefused;
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

std::uint64_t odd_number(std::uint64_t was, std::mt19937_64& random) {
  static constexpr std::uint64_t kOdd[] = {0,
                                           1,
                                           2,
                                           3,
                                           4,
                                           5,
                                           7,
                                           8,
                                           9,
                                           13,
                                           16,
                                           127,
                                           255,
                                           256,
                                           4095,
                                           4096,
                                           65535,
                                           65536,
                                           (1ULL << 31) - 1,
                                           1ULL << 31,
                                           (1ULL << 32) - 1,
                                           1ULL << 32,
                                           (1ULL << 63) - 1,
                                           1ULL << 63,
                                           ~0ULL};
  switch (random() % 6) {
    case 0:
      return was + 1;
    case 1:
      return was - 1;
    case 2:
      return was ^ (1ULL << (random() % 64));
    case 3:
      return random();
    case 4:
      return was ^ (1ULL << (random() % 8));
    default:
      return kOdd[random() % std::size(kOdd)];
  }
}

Draft make_draft(const PathPolicy& policy, std::uint64_t sequence, const Bytes& header,
                 const std::vector<Bytes>& tensors, std::span<const PoolPlace> places) {
  std::vector<std::size_t> sizes;
  for (const Bytes& tensor : tensors) sizes.push_back(tensor.size());
  MessagePlan plan = plan_message(policy, sizes).value();
  CHECK(place_in_pool(plan, places).ok());
  Draft draft;
  draft.has_ring = policy.has_ring;
  draft.header = header;
  if (plan.uses(Path::kZmq)) draft.frames.push_back(encode_opening({kEpoch, sequence}, {}));
  Bytes behind(plan.inline_bytes);
  for (std::size_t i = 0; i < plan.tensor_count; ++i) {
    if (plan.planned[i].is_inline)
      std::ranges::copy(tensors[i],
                        behind.begin() + static_cast<std::ptrdiff_t>(plan.planned[i].inline_at));
  }
  if (plan.has_inline && policy.has_ring) draft.slots.push_back(behind);
  if (!policy.has_ring) draft.behind = behind;
  for (std::size_t i = 0; i < plan.tensor_count; ++i) {
    if (plan.planned[i].is_inline) continue;
    if (plan.planned[i].path == Path::kRing) draft.slots.push_back(tensors[i]);
    if (plan.planned[i].path == Path::kPool)
      draft.pool.emplace_back(plan.planned[i].place, tensors[i]);
    // All are under limits::kFrameBytes.
    if (plan.planned[i].path == Path::kZmq && !tensors[i].empty())
      draft.frames.push_back(tensors[i]);
  }
  if (draft.slots.empty() && policy.has_ring) draft.slots.emplace_back();
  CHECK(draft.slots.size() == plan.ring_slots);
  return draft;
}

std::optional<Outcome> change(Mutation mutation, Draft& draft, const std::vector<Draft>& earlier,
                              std::mt19937_64& random) {
  if (change_header(mutation, draft.header, earlier, random)) return Outcome::kAny;
  if (mutation == Mutation::kSlotMissing && draft.slots.size() > 1) {
    draft.slots.pop_back();
    return Outcome::kRefused;
  }
  if (mutation == Mutation::kSlotExtra && draft.has_ring && draft.slots.size() < 4) {
    draft.slots.emplace_back();
    return Outcome::kRefused;
  }
  return change_frames(mutation, draft, earlier, random);
}

}  // namespace airlock::hostile
