"""Whether words look as if each were drawn from all 2^32: bits, bytes, neighbours, rows. Sums over any number of messages;
what is told is how many standard deviations each lies off what independent words give."""
import math

import numpy as np

import chance

BLOCK_ROWS = 2048


class WordStatistics:
    def __init__(self):
        self.words = 0
        self.halves = np.zeros((2, 1 << 16), np.int64)  # how often each value of the low and the high half was there
        self.products = {"neighbours in a row": [0.0, 0], "words below each other": [0.0, 0],
                         "the same place a pass later": [0.0, 0]}
        self.last = {}

    def add(self, rows, place):
        """rows uint32 [rows, columns]; `place`: what names the message in its pass."""
        rows = np.ascontiguousarray(rows)
        self.words += rows.size
        halves = rows.view("<u2").reshape(-1, 2)
        for side in range(2):
            self.halves[side] += np.bincount(halves[:, side], minlength=1 << 16)
        # From -1 to 1, with a variance of 1/3.
        centred = (rows ^ np.uint32(1 << 31)).view(np.int32).astype(np.float32) / np.float32(1 << 31)
        self.correlate("neighbours in a row", centred[:, :-1], centred[:, 1:])
        self.correlate("words below each other", centred[:-1], centred[1:])
        before = self.last.get(place)
        if before is not None and before.shape == centred.shape:
            self.correlate("the same place a pass later", before, centred)
        self.last[place] = centred

    def correlate(self, name, first, second):
        both = self.products[name]
        for at in range(0, len(first), BLOCK_ROWS):
            block = slice(at, at + BLOCK_ROWS)
            both[0] += float(np.einsum("ij,ij->", first[block], second[block]))
        both[1] += first.size

    def bits(self):
        """Of each of a word's bits, the lowest first: standard deviations off one half."""
        values = np.arange(1 << 16)
        ones = [np.sum(self.halves[side][(values >> bit) & 1 == 1]) for side in range(2) for bit in range(16)]
        return (np.array(ones) - self.words / 2) / (math.sqrt(self.words) / 2)

    def bytes(self):
        """Of each of a word's bytes, the lowest first: chi-square of its 256 values."""
        expected = self.words / 256
        tables = [table.reshape(256, 256).sum(axis=axis) for table in self.halves for axis in (0, 1)]
        return [chance.chi_square_sigma(float(np.sum((table - expected) ** 2 / expected)), 255) for table in tables]

    def correlations(self):
        """Name to standard deviations off 0: products of independent words have a variance of 1/9."""
        return {name: total / (math.sqrt(count) / 3) for name, (total, count) in self.products.items() if count}

    def faults(self, bit_sigma):
        """What is further off than chance: each bit than bit_sigma, all others than chance.most_sigma()."""
        most = chance.most_sigma()
        return ([f"bit {bit}" for bit, sigma in enumerate(self.bits()) if abs(sigma) > bit_sigma]
                + [f"byte {byte}" for byte, sigma in enumerate(self.bytes()) if abs(sigma) > most]
                + [name for name, sigma in self.correlations().items() if abs(sigma) > most])
