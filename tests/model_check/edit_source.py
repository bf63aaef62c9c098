#!/usr/bin/env python3
"""Writes a source of Airlock with a named edit: edit_source.py NAME ROOT OUTPUT. Fails where the text that it replaces is not
there exactly once, so that no edit silently stops being one; `edit_source.py --list` prints KIND NAME FILE of the mutants.

The first two let the ring's own code run in the model checker. The others are mutants: faults that it has to find, and does
(tests/model_check/ring_model_test.cc has more, of which each weakens an access), or that the count of fetches has to find."""
import os
import sys

SEAMS = {
    "two_slots": ("proto/limits.h", [("kMinSlotCount = 8;", "kMinSlotCount = 2;")]),
    "virtual_time": (
        "base/deadline.h",
        [
            ("using Clock = std::chrono::steady_clock;", "using Clock = VirtualClock;"),
            ("#include <cstdint>\n", '#include <cstdint>\n\n#include "virtual_clock.h"\n'),
        ],
    ),
}

MUTANTS = {
    # A wait that parks without a look between arming and the futex.
    "no_look_after_arming": ("shm/wait.cc", [("bool is_ready = ready();", "bool is_ready = false;")]),
    # A slot is handed over before its slot header is there, or the message's header.
    "flag_before_slot_header": (
        "shm/ring_producer.cc",
        [
            (
                "    memory_.store_slot_header(slots[i], slot_header);\n",
                "    if (i == 0) memory_.store_flag(slots[i], slots_[slots[i]].flag + 1);\n"
                "    memory_.store_slot_header(slots[i], slot_header);\n",
            )
        ],
    ),
    "flag_before_message_header": (
        "shm/ring_producer.cc",
        [
            ("  memory_.store_message_header(slots[0], header);\n", ""),
            (
                "  wake_waiters(memory_.published());\n",
                "  memory_.store_message_header(slots[0], header);\n  wake_waiters(memory_.published());\n",
            ),
        ],
    ),
    "first_part_first": (
        "shm/ring_producer.cc",
        [("for (std::size_t i = slots.size(); i-- > 0;) {", "for (std::size_t i = 0; i < slots.size(); ++i) {")],
    ),
    "wake_before_flag": (
        "shm/ring_producer.cc",
        [
            ("  wake_waiters(memory_.published());\n", ""),
            ("  // Last part first:", "  wake_waiters(memory_.published());\n  // Last part first:"),
        ],
    ),
    # The slot is given back while it is still read.
    "slot_reused_early": (
        "shm/ring_consumer.cc",
        [
            (
                "    slots_[index].state = State::kHeld;\n",
                "    slots_[index].state = State::kHeld;\n"
                "    memory_.store_flag(index, slots_[index].flag + 1);\n"
                "    wake_waiters(memory_.freed());\n",
            )
        ],
    ),
    # A later message was seen, and the one before it, which must be there, is not looked for again.
    "no_second_pass": (
        "shm/ring_consumer.cc",
        [("  if (!must_be_there) return false;\n  scan();\n", "  if (!must_be_there) return false;\n")],
    ),
    # The peer published and died between the last look and the question whether it lives.
    "no_look_after_death": ("shm/wait.cc", [("end = ready() ? Status() : std::move(ended);", "end = std::move(ended);")]),
}

# A second fetch of a word that the peer may have changed since it was checked.
FETCH_MUTANTS = {
    "slot_header_fetched_again": (
        "shm/ring_consumer.cc",
        [("  slot.header = header;\n", "  slot.header = memory_.load_slot_header(index);\n")],
    ),
    "header_length_fetched_again": (
        "shm/ring_consumer.cc",
        [
            (
                "memory_.load_message_header(slot_of(next_sequence_), first.header_bytes)",
                "memory_.load_message_header(\n      slot_of(next_sequence_), "
                "memory_.load_slot_header(slot_of(next_sequence_)).header_bytes)",
            )
        ],
    ),
    "message_header_fetched_again": (
        "shm/ring_consumer.cc",
        [
            (
                "  fault_ = memory_.check();  // truncated since: the copy is zeros\n",
                "  message.header = memory_.load_message_header(slot_of(next_sequence_), first.header_bytes);\n"
                "  fault_ = memory_.check();\n",
            )
        ],
    ),
    "flag_fetched_again": (
        "shm/ring_producer.cc",
        [("    if (flag != slot.flag) {\n", "    if (memory_.load_flag(i) != slot.flag) {\n")],
    ),
}


def main():
    if sys.argv[1:] == ["--list"]:
        for kind, mutants in (("model", MUTANTS), ("fetch", FETCH_MUTANTS)):
            for name, (file, _) in mutants.items():
                print(kind, name, file)
        return
    name, root, output = sys.argv[1:]
    file, edits = (SEAMS | MUTANTS | FETCH_MUTANTS)[name]
    with open(os.path.join(root, file), encoding="utf-8") as source:
        text = source.read()
    for old, new in edits:
        if text.count(old) != 1:
            sys.exit(f"edit_source: {name}: {file} holds {text.count(old)} times, instead of once:\n{old}")
        text = text.replace(old, new)
    os.makedirs(os.path.dirname(output), exist_ok=True)
    with open(output, "w", encoding="utf-8") as result:
        result.write(text)


if __name__ == "__main__":
    main()
