"""Property tests without a deadline for each example: the machine's pace is not a property of the code."""

from hypothesis import settings

settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")
