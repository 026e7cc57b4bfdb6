"""Routers compared on the same queries: every result with its interval and its count.

Routing metrics use the queries labelled for every target; metrics of probabilities use, for each
target, the queries labelled for it. All routers share the resamples, so differences are paired.
"""
