"""Real indexes for the tests of sinks, started and killed by them."""
