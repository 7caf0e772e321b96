"""`align-worker demo`: an embedded broker, a generated world, the real worker, and what came of it.

Nothing is simulated but the world: the worker is the one that `align-worker run` runs, records travel over the Kafka
protocol, and latencies are measured by a reader of the output topics.
"""

from worker.demo.run import run_demo

__all__ = ["run_demo"]
