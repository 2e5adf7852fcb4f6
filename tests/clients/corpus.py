"""Documents for the tests of search, and an exact search to compare with."""

import numpy as np

TEXTS = [
    "London has about nine million inhabitants",
    "Paris is the capital of France",
    "The Thames flows through the city of London",
    "A cat sleeps for most of the day",
    "Dogs were domesticated before cats",
    "The stock market fell by two percent",
    "Central banks raised interest rates again",
    "Bread is made from flour, water and yeast",
    "The recipe needs three eggs and some butter",
    "Rain is expected in the north of England",
]
TOPICS = ["city", "city", "city", "animal", "animal", "money", "money", "food", "food", "weather"]
YEARS = list(range(2010, 2010 + len(TEXTS)))
QUERIES = ["How many people live in London", "pets", "finance news", "how to bake a cake"]

# Scores are compared in float32.
TOLERANCE = 1e-5


def nearest(server, model, query, allowed=None):
    """Returns the indexes of the texts and their cosines with the query, the best first."""
    rows = server.embed(model, [*TEXTS, query]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows[:-1] @ rows[-1]
    order = sorted(range(len(TEXTS)) if allowed is None else allowed, key=lambda i: -cosines[i])
    return order, [cosines[index] for index in order]


def same(found, expected):
    """Compares pairs of an index and a score with what `nearest` returned, whose order decides."""
    found = list(found)
    order, cosines = expected
    count = len(found)
    assert [index for index, _ in found] == order[:count], (found, expected)
    np.testing.assert_allclose([score for _, score in found], cosines[:count], atol=TOLERANCE)
