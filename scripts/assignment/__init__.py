"""What scripts/reproduce_assignment.py is made of, in the order in which data flows.

architecture: the two networks, as facts
runs:         one resumable optimisation, and how long all took
measures:     what is measured at a picture: losses and gradients by layer, curvature
experiments:  the report's experiment and its variations: runs, and what is measured on them
contests:     optimisers and networks against each other
figures:      pictures and curves
document:     text, tables and figures as Markdown and as HTML
findings:     what the figures say of each claim
"""
