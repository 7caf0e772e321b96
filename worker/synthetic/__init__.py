"""A generated world whose truth is known: items, and users with tastes. For the demo and for tests.

    catalogue = Catalogue(seed=0)
    items = list(catalogue.items(1_000))
    audience = Audience(catalogue, num_users=100, seed=0, start_ms=start_ms)
    for event in audience.events(items, num_events=10_000, end_ms=end_ms):
        ...  # in order of time; event.message() is the `UserEvent`

Everything that is seen is made from latent vectors of one space of `LATENT_DIM` dimensions: what an item is like, and
what a user likes. They are there to be compared with what a model has found.
"""

from worker.synthetic.audience import Audience, SyntheticEvent
from worker.synthetic.catalogue import LATENT_DIM, MODALITIES, THEMES, Catalogue, SyntheticItem

__all__ = ["LATENT_DIM", "MODALITIES", "THEMES", "Audience", "Catalogue", "SyntheticEvent", "SyntheticItem"]
