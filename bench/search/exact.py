"""Finds the nearest vectors by comparing all of them with numpy, and prints the time of each search and the result.

Usage: exact.py VECTORS QUERIES DIMENSION COUNT, where both files hold 32-bit floats
"""

import json
import sys
import time

import numpy

dimension, count = int(sys.argv[3]), int(sys.argv[4])
vectors, queries = (numpy.fromfile(path, numpy.float32).reshape(-1, dimension) for path in sys.argv[1:3])
micros, nearest = [], []
# The first searches also fetch the vectors into the caches.
for measured, query in [(False, query) for query in queries[:10]] + [(True, query) for query in queries]:
    start = time.perf_counter()
    scores = vectors @ query
    best = numpy.argpartition(scores, -count)[-count:]
    best = best[numpy.argsort(-scores[best])]
    if measured:
        micros.append((time.perf_counter() - start) * 1e6)
        nearest.append(best.tolist())
print(json.dumps({"micros": micros, "nearest": nearest}))
