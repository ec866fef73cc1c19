"""Runs `benchmarks.peers`."""

from benchmarks import common, peers

common.run_command(peers.NAME, peers.FLAGS, peers.main)
