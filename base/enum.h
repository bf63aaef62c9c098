#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

namespace airlock {

/// Enumerations whose values have names. One joins by a function in its own header,
///
///   constexpr std::string_view name_of(E value);
///
/// from a switch with a case for each enumerator, and an empty name for every other number.
/// The compiler then names each switch that a new enumerator is missing from; everything else (the
/// list of the values, their number, parsing) follows from that function.

namespace enum_detail {

// As many numbers are looked at; no enumeration here has larger ones.
inline constexpr std::size_t kMostNumbers = 64;

template <typename E>
constexpr std::size_t count_named() {
  std::size_t count = 0;
  for (std::size_t i = 0; i < kMostNumbers; ++i)
    count += name_of(static_cast<E>(i)).empty() ? 0 : 1;
  return count;
}

template <typename E, std::size_t kCount>
constexpr std::array<E, kCount> list_named() {
  std::array<E, kCount> values{};
  std::size_t count = 0;
  for (std::size_t i = 0; i < kMostNumbers; ++i) {
    if (!name_of(static_cast<E>(i)).empty()) values[count++] = static_cast<E>(i);
  }
  return values;
}

}  // namespace enum_detail

template <typename E>
inline constexpr std::size_t kCountOf = enum_detail::count_named<E>();

/// Every value of E, ascending.
template <typename E>
inline constexpr std::array<E, kCountOf<E>> kValuesOf =
    enum_detail::list_named<E, enum_detail::count_named<E>()>();

/// The place of `value` in kValuesOf. The values of E follow each other without a gap.
template <typename E>
constexpr std::size_t index_of(E value) {
  constexpr auto kFirst = static_cast<std::size_t>(kValuesOf<E>.front());
  static_assert(static_cast<std::size_t>(kValuesOf<E>.back()) - kFirst + 1 == kCountOf<E>);
  return static_cast<std::size_t>(value) - kFirst;
}

/// Parses what name_of() gives.
template <typename E>
constexpr std::optional<E> from_name(std::string_view name) {
  for (const E value : kValuesOf<E>) {
    if (name_of(value) == name) return value;
  }
  return std::nullopt;
}

/// All names, for a message: "ring, zmq".
template <typename E>
std::string names_of() {
  std::string names;
  for (const E value : kValuesOf<E>) {
    if (!names.empty()) names += ", ";
    names += name_of(value);
  }
  return names;
}

/// A T for each value of E.
template <typename E, typename T>
struct PerValue {
  std::array<T, kCountOf<E>> values{};

  constexpr T& operator[](E value) { return values[index_of(value)]; }
  constexpr const T& operator[](E value) const { return values[index_of(value)]; }
  constexpr auto begin() { return values.begin(); }
  constexpr auto begin() const { return values.begin(); }
  constexpr auto end() { return values.end(); }
  constexpr auto end() const { return values.end(); }
  bool operator==(const PerValue&) const = default;
  /// each(name, tables[value]...) for every value.
  template <typename Each, typename... Tables>
  static constexpr void visit(Each&& each, Tables&... tables) {
    for (const E value : kValuesOf<E>) each(name_of(value), tables[value]...);
  }
};

}  // namespace airlock
