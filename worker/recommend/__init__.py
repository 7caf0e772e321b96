"""Recommending from vectors that have been published: exact search over all of them."""
