"""The sub-commands of `align-worker`, one module each, and what their arguments have in common.

In: the command line. Out: what is printed, and an exit code. On the main thread; a command imports what it needs when
it runs, so that `--help` and `config` stay quick.
"""
