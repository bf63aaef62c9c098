"""What a host does with what it was sent. Each attack takes what the host knows and what crossed, and gives its guess with
how sure it is of it: a score between 0 and 1 for each row. README.md has the literature's names.

Rows of floats are a plain or a prototype's message; rows of 32-bit words are those of a private mode, read as signed."""
from dataclasses import dataclass

import numpy as np


@dataclass
class Guess:
    tokens: np.ndarray  # [rows]: the token at each place
    scores: np.ndarray  # [rows]


def signed(rows):
    return (rows.view(np.int32) if rows.dtype == np.uint32 else rows).astype(np.float64)


def difference(rows, row):
    """All rows less one of them; of words as the ring has it."""
    return signed(rows - row)


def unit(rows):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def hits(guess, prompt):
    return int(np.sum(guess.tokens == prompt))


def nearest_neighbour(host, rows):
    """Of each row the candidate of the largest cosine: what it is without a mask, whatever its scale."""
    cosines = unit(signed(rows)) @ unit(host.candidates(rows)).T
    return Guess(np.argmax(cosines, axis=1), np.max(cosines, axis=1))


def regression_of(candidates, rows):
    """Each row as a multiple of a candidate and a constant: the candidate that explains most of it."""
    def centred(values):
        return unit(values - values.mean(axis=1, keepdims=True))
    explained = (centred(rows) @ centred(candidates).T) ** 2
    return Guess(np.argmax(explained, axis=1), np.max(explained, axis=1))


def scalar_regression(host, rows):
    return regression_of(host.candidates(rows), signed(rows))


def matmul_regression(host, values, group):
    """The same on the values of a key/value head: the token of each row, in the order in which they were sent."""
    return regression_of(host.values[group], values)


def zero_count(probabilities):
    """A causal mask leaves i + 1 entries in row i, and n - j in column j: orders of rows and columns.
    probabilities [heads, rows, keys], of one pass over a whole prompt."""
    seen = np.any(probabilities != 0, axis=0)
    return seen.sum(axis=1) - 1, seen.shape[1] - seen.sum(axis=0)


def common_vector_removal(host, rows):
    """The first row taken off the others: what they had in common has gone. Each difference is explained by two tokens;
    the second row's tell the first's, and the rest follow. Scales of rows are left open."""
    candidates = unit(host.candidates(rows))
    products = candidates @ candidates.T
    differences = unit(difference(rows, rows[0])[1:])
    first = differences[0] @ candidates.T
    # As much of the difference as a multiple of candidate t and one of candidate s explain: [t, s].
    independent = 1 - products ** 2
    explained = np.where(independent > 1e-9, (first[:, None] ** 2 + first[None, :] ** 2
                         - 2 * products * first[:, None] * first[None, :]) / np.maximum(independent, 1e-9), 0)
    # The second row comes with a plus, the first with a minus.
    signs = (first[:, None] - products * first[None, :] > 0) & (first[None, :] - products * first[:, None] < 0)
    explained = np.where(signs, explained, 0)
    _, anchor = np.unravel_index(np.argmax(explained), explained.shape)
    ours = differences @ candidates.T
    without = ours - ours[:, [anchor]] * products[anchor]
    gains = ours[:, [anchor]] ** 2 + without ** 2 / np.maximum(independent[anchor], 1e-9)
    gains[:, anchor] = 0
    tokens = np.concatenate([[anchor], np.argmax(gains, axis=1)])
    return Guess(tokens, np.concatenate([[explained.max()], gains.max(axis=1)]))


def row_space_membership(host, rows):
    """A token that was in the prompt lies in the space of the message's rows, but for one direction that all of them have
    in common (the mask's). The members give the mask's row, and that the place of each."""
    count = len(rows)
    masked = unit(signed(rows))
    candidates = host.candidates(rows)
    basis = np.linalg.svd(masked, full_matrices=False)[2]
    beyond = unit(candidates) - unit(candidates) @ basis.T @ basis
    inside = np.linalg.norm(beyond, axis=1) < 1e-3
    alike = np.abs(unit(beyond) @ unit(beyond).T)
    centre = np.argmax(np.sum(alike > 0.99, axis=1))
    belongs = np.where(inside, 2, alike[centre])  # the members of the space itself first
    members = np.argsort(-belongs, kind="stable")[:count]
    # Each row by the members, and what is left of it: a multiple of the mask's row.
    parts = np.linalg.lstsq(candidates[members].T, masked.T, rcond=None)[0].T
    left = masked - parts @ candidates[members]
    mask = np.linalg.svd(left, full_matrices=False)[2][0]
    shares = left @ mask
    # Of most rows a member's part is the mask's alone.
    of_mask = np.median(parts / np.where(np.abs(shares) > 0, shares, 1)[:, None], axis=0)
    own = np.abs(parts - shares[:, None] * of_mask)
    best = np.argmax(own, axis=1)
    return Guess(members[best], np.minimum(belongs[members[best]], 1))


ON_ROWS = (nearest_neighbour, scalar_regression, common_vector_removal, row_space_membership)


def features(messages):
    """What a classifier sees of one pass: every word, and what rows of a message differ by, which takes off what they have
    in common; each part scaled to the same length."""
    parts = []
    for rows in messages:
        for part in (signed(rows), difference(rows, rows[0])[1:]):
            norm = np.linalg.norm(part)
            parts.append(part.ravel().astype(np.float32) / (norm if norm > 0 else 1))
    return np.concatenate(parts)


def classify(first, second):
    """Trained on the even samples of two prompts (the nearer mean), tried on the odd ones. Gives how many it had right
    and of how many. first, second [samples, features], as many of each."""
    means = [np.mean(samples[::2], axis=0, dtype=np.float64) for samples in (first, second)]
    side, middle = means[0] - means[1], (means[0] + means[1]) / 2 @ (means[0] - means[1])
    right = np.sum(first[1::2] @ side > middle) + np.sum(second[1::2] @ side <= middle)
    return int(right), len(first[1::2]) + len(second[1::2])
