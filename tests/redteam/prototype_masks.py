"""The kinds of masks that the Python prototype had, for attacks to fall upon. No product code has them, nor may.

Of the prototype only logs are left (docs/PROTOTYPE.md); its masks are not written down anywhere. These are the schemes that
its attacks are named after: secrets that are fewer than the values they hide, so that the trusted side can take them off
again at the cost of a few rows. Each takes plain activations and a numpy generator and gives what the host would get."""
import numpy as np


def spread(numbers, count):
    """Secret factors of either sign, away from zero."""
    return numbers.uniform(0.5, 2, count) * numbers.choice([-1.0, 1.0], count)


def linear_scheme(x, numbers):
    """Each row times a secret factor, plus a secret multiple of one secret row: a_i x_i + c_i r. The products of r alone
    and a division take it off. [rows, columns]"""
    common = 30 * np.std(x) * numbers.standard_normal(x.shape[1])
    return spread(numbers, len(x))[:, None] * x + spread(numbers, len(x))[:, None] * common


def shared_pad(x, numbers):
    """One pad for all rows of a message, drawn anew for each message: x_i + r. [rows, columns]"""
    return x + 30 * np.std(x) * numbers.standard_normal(x.shape[1])


def shared_ring_pad(x, numbers):
    """The same on integers, mod 2^32. [rows, columns]"""
    return x + numbers.integers(0, 1 << 32, x.shape[1], dtype=np.uint32)


def affine_rows(x, numbers):
    """Each row times a secret factor, plus a secret constant: a_i x_i + b_i. [rows, columns]"""
    return spread(numbers, len(x))[:, None] * x + 100 * np.std(x) * numbers.standard_normal((len(x), 1))


def permuted_matmul(probabilities, values, numbers):
    """The matmul scheme: rows and columns in secret orders, a secret factor for each row of the probabilities and one for
    each head of the values. probabilities [heads, rows, keys], values [groups, keys, head_dim]; gives both, and the two
    orders."""
    rows, keys = probabilities.shape[1:]
    row_order, key_order = numbers.permutation(rows), numbers.permutation(keys)
    masked = probabilities[:, row_order][:, :, key_order] * spread(numbers, rows)[None, :, None]
    return masked, values[:, key_order] * spread(numbers, len(values))[:, None, None], row_order, key_order
