"""What operators take, make and mean, for both sides of a flow.

Classes here know shapes and constants; those of the same names in `cache` and
`indexer` know how they are called on their side.
"""
