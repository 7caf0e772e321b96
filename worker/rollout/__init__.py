"""Moving from one space to the next while the stream flows: where a rollout stands, and who is told of it.

In: the records of the control topic, and the commits of the workers' groups. Out: which space is published, which
beside it, and which one readers read. `plan.py` decides, `control.py` reads and writes, `steps.py` is what the command
does.
"""
