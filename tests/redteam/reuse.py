"""Pads that were used twice, found by differences. Where two rows were hidden under one pad, their difference is that of
what they hide: small integers. The same where a pad was used with its sign turned, or where rows of two linears of
different width begin with the same words."""
import numpy as np

WORDS = 64      # of each row that are compared
SMALL = 1 << 27  # a difference below this is small; what rows hide is below 2^24 but for rare spikes
# Of WORDS differences of a pair so many are small where a pad was reused; of independent words each is small with 1/16, so
# a pair reaches this with at most C(64, 44) 16^-44 < 3e-37, and no 1e12 pairs ever have one that does.
ENOUGH = 44
KEY_WORDS = 4   # of which the leading bytes make a key: of two rows of one pad these are mostly the same
KEYS = WORDS // KEY_WORDS
MOST_ALIKE = 64  # rows of one key; more are all found to be alike anyway


def first_words(messages):
    """The beginnings of all rows of these messages: [rows, WORDS], and where each row was: (message, row)."""
    rows = [np.asarray(message[:, :WORDS]) for message in messages]
    places = [(index, row) for index, message in enumerate(rows) for row in range(len(message))]
    return np.concatenate(rows), places


def small_count(first, second):
    """How many words of each pair differ by little."""
    return np.sum(np.abs((first - second).view(np.int32).astype(np.int64)) < SMALL, axis=-1)


def candidates(words):
    """Pairs of rows that share a key: each pair of one pad in one of KEYS tries at least, but for luck, and few others
    (1 of 2^32). A word's leading byte is taken after half a byte's step, in every second key, so that small differences
    around a byte's edge do not part a pair."""
    for key in range(KEYS):
        columns = words[:, key * KEY_WORDS:(key + 1) * KEY_WORDS]
        step = np.uint32((key % 2) << 23)
        keys = np.ascontiguousarray(((columns + step) >> np.uint32(24)).astype(np.uint8)).view(np.uint32)[:, 0]
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for apart in range(1, min(MOST_ALIKE, len(order))):
            at = np.nonzero(ordered[apart:] == ordered[:-apart])[0]
            if not len(at):
                break
            yield order[at], order[at + apart]


def pairs_alike(words, with_turned=True):
    """All pairs (i, j) of rows whose words differ by little, or whose sums do. words uint32 [rows, WORDS]"""
    count = len(words)
    whole = np.concatenate([words, np.uint32(0) - words]) if with_turned else words
    found = set()
    for first, second in candidates(whole):
        close = small_count(whole[first], whole[second]) >= ENOUGH
        for i, j in zip(first[close] % count, second[close] % count):
            if i != j:
                found.add((int(min(i, j)), int(max(i, j))))
    return sorted(found)


def equal_rows(words):
    """How many rows there are twice."""
    return len(words) - len(np.unique(words, axis=0))


def shifted(words, shift_limit=WORDS // 2):
    """For each shift: how many words of how many differ by little from those that so many further on, in the same row and
    in the next. What a pad repeats within itself or with a step from row to row shows here."""
    for shift in range(1, shift_limit):
        rest = WORDS - shift
        for first, second in ((words[:, :rest], words[:, shift:]), (words[:-1, :rest], words[1:, shift:]),
                              (words[:-1, shift:], words[1:, :rest])):
            yield shift, int(np.sum(small_count(first, second))), first.size
