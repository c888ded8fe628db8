"""What ends the packing with one line."""


class Fault(Exception):
    """Names the item, what is wrong with it, and the way out."""
