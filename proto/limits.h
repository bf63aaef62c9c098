#pragma once

#include <cstddef>
#include <cstdint>

/// Every limit on what a peer, a file or a user may ask for.
namespace airlock::limits {

inline constexpr std::size_t kMinSlotCount = 8;
inline constexpr std::size_t kMaxSlotCount = 1024;
inline constexpr std::size_t kDefaultSlotCount = 8;
inline constexpr std::size_t kMinSlotBytes = 4096;
inline constexpr std::size_t kMaxSlotBytes = std::size_t{64} << 20;
inline constexpr std::size_t kDefaultSlotBytes = 10485760;
/// A slot's header area, or a frame that holds a header.
inline constexpr std::size_t kHeaderBytes = 4096;
inline constexpr std::size_t kMaxTensorsPerMessage = 8;
/// What rides behind a message's header, of one tensor and of all.
inline constexpr std::size_t kMaxInlineBytes = std::size_t{64} << 10;
inline constexpr std::size_t kInlineAlignment = 64;
inline constexpr std::size_t kMaxWeightsPerOp = 8;
inline constexpr std::size_t kMaxTensorBytes = std::size_t{4} << 30;
inline constexpr std::size_t kMaxMessageBytes = std::size_t{8} << 30;
inline constexpr std::size_t kFrameBytes = std::size_t{8} << 20;  // ZeroMQ bulk frames
inline constexpr std::size_t kMaxDataSockets = 8;                 // of one session
/// The frames of a session with several, so that a tensor of a few MiB is on all of them.
inline constexpr std::size_t kStripeBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMaxRequestsUnderWay = 64;
inline constexpr std::size_t kMaxErrorTextBytes = 1024;
inline constexpr std::size_t kMaxConfigBytes = std::size_t{64} << 10;
inline constexpr std::size_t kMaxStatsBytes = std::size_t{1} << 20;  // the stats op's JSON
inline constexpr std::size_t kMaxSafetensorsHeaderBytes = std::size_t{100} << 20;
inline constexpr std::int64_t kMaxTokens = 131072;
inline constexpr std::int64_t kMaxVocab = 4 << 20;
inline constexpr std::int64_t kMaxHidden = 1 << 16;
inline constexpr std::int64_t kMaxIntermediate = 1 << 18;
inline constexpr std::int64_t kMaxLayers = 512;
inline constexpr std::int64_t kMaxHeads = 1024;
inline constexpr std::int64_t kMaxHeadDim = 1024;
inline constexpr std::size_t kMaxClients = 64;
inline constexpr std::size_t kDefaultMaxClients = 8;
inline constexpr std::size_t kMaxEndpointPathBytes = 107;
inline constexpr std::size_t kMaxThreads = 1024;
/// Leaves room for what a carrier puts in front.
inline constexpr std::size_t kMaxEncodedHeaderBytes = kHeaderBytes - 256;
inline constexpr std::size_t kMaxControlFrameBytes = 4096;
inline constexpr std::size_t kMaxClientNameBytes = 64;
inline constexpr std::size_t kSessionTokenBytes = 32;
inline constexpr std::size_t kMaxDigestBytes = 64;
inline constexpr std::size_t kMaxDeviceNameBytes = 256;
inline constexpr std::size_t kMaxLibraryNameBytes = 128;
inline constexpr std::size_t kMaxDataEndpointBytes = 512;
inline constexpr std::size_t kMaxSegmentNameBytes = 88;
/// What a place in the pool is a multiple of.
inline constexpr std::size_t kPoolPageBytes = 4096;
/// A smaller tensor that the ring does not take crosses by ZeroMQ.
inline constexpr std::size_t kMinPoolTensorBytes = kPoolPageBytes;
inline constexpr std::size_t kMinPoolSlotBytes = std::size_t{64} << 10;
inline constexpr std::size_t kMaxPoolSlotBytes = std::size_t{64} << 30;
inline constexpr std::size_t kMaxPoolSlots = 1024;
inline constexpr std::size_t kMaxPoolBytes = std::size_t{1} << 40;
/// Of one session.
inline constexpr std::size_t kMaxPoolExtents = 3;
/// Numbers, texts and array heads in one msgpack value.
inline constexpr std::size_t kMaxWireTokens = 192;
inline constexpr std::size_t kMaxWireDepth = 6;

}  // namespace airlock::limits
