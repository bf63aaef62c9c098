"""What an attack that knows nothing may still reach. Every claim of chance in this folder is a call of something here, and
each is wrong for an honest build with a probability of at most MISTAKE; there are fewer than a hundred of them in a run,
so that an honest build fails with a probability of at most 1e-9."""
import math

MISTAKE = 1e-11


def most_hits(rows, vocab, mistake=MISTAKE):
    """How many of `rows` tokens a guess that does not depend on them may have right, each at its place. The prompt's
    tokens are drawn anew for each run, distinct, each as likely as another, and the words of a one-time pad do not depend
    on them: k given places are right with a probability of at most (vocab - rows)^-k, so some k of them with at most
    binomial(rows, k) times that."""
    for k in range(1, rows + 1):
        if math.comb(rows, k) * float(vocab - rows) ** -k <= mistake:
            return k - 1
    return rows


def most_distance(trials, mistake=MISTAKE):
    """How far from trials / 2 the right answers of a classifier may be that knows nothing (Hoeffding, both sides). It
    holds for a classifier that prefers one answer, too, where half of the trials are of each prompt."""
    return math.sqrt(trials / 2 * math.log(2 / mistake))


def most_sigma(mistake=MISTAKE):
    """How many standard deviations the sum of many independent terms may lie off its mean (the normal law, both
    sides)."""
    low, high = 0.0, 40.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erfc(middle / math.sqrt(2)) > mistake else (low, middle)
    return high


def chi_square_sigma(chi_square, freedom):
    """As standard deviations of a normal law (Wilson and Hilferty): good for freedom of 100 and more."""
    cube = (chi_square / freedom) ** (1 / 3)
    return (cube - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
