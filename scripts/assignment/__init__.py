"""The parts of scripts/reproduce_assignment.py, in the order in which data flows.

architecture: the layers of the two networks
measures:     losses, gradients and curvature at a picture
experiments:  the runs, and what is measured of them
figures:      the pictures and curves of the report
findings:     the rules that turn measurements into verdicts
report:       the text of the report
"""
