"""bfloat16, which numpy does not have."""

import numpy as np


def widen(halves):
    """float32 of bfloat16 numbers, the upper halves of their bits, given as uint16; of any shape, also ()."""
    bits = halves.astype(np.uint32)
    bits <<= np.uint32(16)  # in place: of an array of no dimensions, numpy would make a number
    return bits.view(np.float32)
