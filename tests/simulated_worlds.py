"""Simulated classifiers of a known accuracy, and drawn labels, for the tests of what judges them."""

import numpy as np
from hypothesis import strategies as st

classes = st.integers(0, 6)
faces = st.lists(st.tuples(classes, classes, st.integers(0, 5)), min_size=1, max_size=60).map(lambda rows: np.array(rows).T)


def world(seed, subjects, per_subject=1, spread=0.0):
    """Simulated labels, predictions and subjects; the expected accuracy is 0.6 whatever `spread`, a subject's own luck."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(subjects), per_subject)
    true = rng.integers(0, 7, len(group))
    right = rng.random(len(group)) < 0.6 + rng.choice([-spread, spread], subjects)[group]
    return true, np.where(right, true, (true + rng.integers(1, 7, len(group))) % 7), group
