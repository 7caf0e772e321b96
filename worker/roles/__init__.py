"""The two halves of the worker, items and users, as the loop sees them."""
