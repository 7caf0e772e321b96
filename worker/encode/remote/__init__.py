"""Encoders that are elsewhere: a server that is asked over HTTP, in one of several protocols."""
