#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string_view>
#include <vector>

#include "proto/path.h"
#include "tests/hostile/cases.h"

namespace airlock::hostile {

/// A message as it crosses: what an honest peer would send, to be changed before it leaves.
struct Draft {
  bool has_ring = false;
  /// Behind part 0 in the ring, or in the opening.
  Bytes header;
  /// What rides behind the header in an opening; in the ring it is the first slot's payload.
  Bytes behind;
  /// The payload of each slot that the message takes.
  std::vector<Bytes> slots;
  /// On the socket; the first one is the opening.
  std::vector<Bytes> frames;
  /// What is written into the pool.
  std::vector<std::pair<PoolPlace, Bytes>> pool;
};

/// Message `sequence` of a session of testing_rigs::kEpoch, whose tensors have these places in the
/// pool, if any.
Draft make_draft(const PathPolicy& policy, std::uint64_t sequence, const Bytes& header,
                 const std::vector<Bytes>& tensors, std::span<const PoolPlace> places = {});

/// What a hostile peer does once.
enum class Mutation : std::uint8_t {
  kNone,
  // Of the header.
  kHeaderBits,
  kHeaderByte,
  kHeaderNumber,
  kHeaderCut,
  kHeaderGrown,
  kHeaderJunk,
  kHeaderReplayed,
  kHeaderOfTheOtherSide,
  // Of what a message takes. (What is no frame at all: tests/channel/zmtp_socket_test.cc.)
  kSlotMissing,
  kSlotExtra,
  kFrameMissing,
  kFrameTwice,
  kFrameCut,
  kFrameGrown,
  kFrameUnasked,
  kFramesSwapped,
  kOpeningEpoch,
  kOpeningSequence,
  kOpeningReplayed,
  // Of the words in shared memory, once the message is there.
  kSuperblock,
  kBell,
  kFlag,
  kSlotHeader,
  kSlotHeaderReplayed,
  kHeaderArea,
  kPayload,
  kManyWords,
  kTruncation,
  // Of the pool, while the honest side computes there.
  kPoolBytes,
  // Of the flow.
  kUnread,
  kHangUp,
};
constexpr std::string_view name_of(Mutation mutation) {
  switch (mutation) {
    case Mutation::kNone:
      return "none";
    case Mutation::kHeaderBits:
      return "header: bits flipped";
    case Mutation::kHeaderByte:
      return "header: a byte of msgpack's own";
    case Mutation::kHeaderNumber:
      return "header: another number";
    case Mutation::kHeaderCut:
      return "header: cut";
    case Mutation::kHeaderGrown:
      return "header: grown";
    case Mutation::kHeaderJunk:
      return "header: junk";
    case Mutation::kHeaderReplayed:
      return "header: an earlier one";
    case Mutation::kHeaderOfTheOtherSide:
      return "header: the other side's";
    case Mutation::kSlotMissing:
      return "slots: one too few";
    case Mutation::kSlotExtra:
      return "slots: one too many";
    case Mutation::kFrameMissing:
      return "frames: one left out";
    case Mutation::kFrameTwice:
      return "frames: one twice";
    case Mutation::kFrameCut:
      return "frames: one cut";
    case Mutation::kFrameGrown:
      return "frames: one grown";
    case Mutation::kFrameUnasked:
      return "frames: one unasked";
    case Mutation::kFramesSwapped:
      return "frames: swapped";
    case Mutation::kOpeningEpoch:
      return "opening: another epoch";
    case Mutation::kOpeningSequence:
      return "opening: another sequence";
    case Mutation::kOpeningReplayed:
      return "opening: an earlier one";
    case Mutation::kSuperblock:
      return "words: superblock";
    case Mutation::kBell:
      return "words: bells";
    case Mutation::kFlag:
      return "words: a slot's flag";
    case Mutation::kSlotHeader:
      return "words: a slot's header";
    case Mutation::kSlotHeaderReplayed:
      return "words: an earlier slot header";
    case Mutation::kHeaderArea:
      return "words: a header area";
    case Mutation::kPayload:
      return "words: payload";
    case Mutation::kManyWords:
      return "words: many, again and again";
    case Mutation::kTruncation:
      return "segment truncated";
    case Mutation::kPoolBytes:
      return "bytes in the pool";
    case Mutation::kUnread:
      return "replies left unread";
    case Mutation::kHangUp:
      return "hangs up in the middle";
  }
  return {};
}

/// What must come of a message to an honest peer that had no cause for complaint before.
enum class Outcome : std::uint8_t {
  // It is taken, and its tensors are right.
  kTaken,
  // It is taken, with tensors of the right sizes.
  kTakenAsItIs,
  // The session ends with kProtocolError.
  kRefused,
  // One of these, or the peer waits for what never comes.
  kAny,
};

/// Changes `draft` as `mutation` says, where it is one of a draft and the draft has what it
/// changes; else nullopt. `earlier` are drafts that were sent before. kRefused where that is
/// certain, else kAny: what a changed header means, is the caller's to know.
std::optional<Outcome> change(Mutation mutation, Draft& draft, const std::vector<Draft>& earlier,
                              std::mt19937_64& random);

/// A number that a length, a count or an index should not be, or `was` by a hair.
std::uint64_t odd_number(std::uint64_t was, std::mt19937_64& random);

}  // namespace airlock::hostile
