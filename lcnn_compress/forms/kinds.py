"""The kinds of form a layer can have: one table that planning, search, reports, artefacts and files read.

Every kind but ``dense`` is a lookup convolution in torch. Kinds differ in what their dictionary is, in which coefficients they
keep, and in what a file holds of them; whoever needs one of these facts asks the kind for it.
"""

from __future__ import annotations

from dataclasses import dataclass

# The runtime has kernels for these numbers of neighbouring filters with one pattern.
FILTERS_PER_PATTERN = (1, 2, 4, 8)
# Where at least this fraction of coefficients is not zero, a matrix product is faster than lookups.
MIN_FULL_DENSITY = 0.9


@dataclass(frozen=True)
class Kind:
    """What one kind of form means.

    Attributes:
        name: what plans, configurations, artefacts and reports call the kind.
        label: how a table names a layer of k dictionary rows; ``{k}`` stands for k.
        is_coded: whether the layer becomes a lookup convolution; False leaves it as it was.
        is_identity: whether the dictionary is the identity (k is the channels of a group), so that stage 1 costs nothing.
        is_full: whether every row is looked up at every position, so that a file holds two ordinary convolutions.
        init: the start of the dictionary where the kind fixes it, else None.
        min_lookups: fewest lookups of a position; 0 where a layer shares its lookups out among positions freely.
    """

    name: str
    label: str
    is_coded: bool = True
    is_identity: bool = False
    is_full: bool = False
    init: str | None = None
    min_lookups: float = 1.0

    @property
    def has_free_lookups(self) -> bool:
        """Whether a dictionary size still leaves the number of lookups open: elsewhere one number decides the form."""
        return self.is_coded and not self.is_identity and not self.is_full

    def described(self, dictionary_size: int | None) -> str:
        """Return how a table names a layer of this kind."""
        return self.label.format(k=dictionary_size)

    def projected_rows(self, dictionary_size: int) -> int:
        """Return the dictionary rows of a group that stage 1 multiplies with, which have parameters of their own."""
        return 0 if self.is_identity else dictionary_size

    def size_rule(self, dictionary_size: int, channels: int, largest: int) -> str | None:
        """Return the rule that a dictionary size breaks, or None.

        Args:
            dictionary_size: k as planned, which may be anything.
            channels: the channels of one group.
            largest: the largest size, one less than the number of vectors that the dictionary codes.
        """
        if self.is_identity:
            return None if dictionary_size == channels else f"{channels}, the channels of a group, in a {self.name} layer"
        valid = isinstance(dictionary_size, int) and 1 <= dictionary_size <= largest
        return None if valid else f"a whole number from 1 to {largest}"

    def lookups_rule(self, lookups: float, dictionary_size: int) -> str | None:
        """Return the rule that a number of lookups (int) or fraction of the dictionary (float) breaks, or None."""
        is_count = isinstance(lookups, int) and 1 <= lookups <= dictionary_size
        if self.is_full:
            every = is_count and lookups == dictionary_size
            return None if every else f"{dictionary_size}, every row, in a low-rank layer"
        is_fraction = isinstance(lookups, float) and 0 < lookups < 1
        return None if is_count or is_fraction else f"a share below 1.0 or 1 to {dictionary_size} entries"


DENSE = Kind("dense", "dense", is_coded=False)
LOOKUP = Kind("lookup", "{k}")
SPARSE = Kind("sparse", "sparse", is_identity=True, init="identity", min_lookups=0.0)
LOW_RANK = Kind("lowrank", "low rank {k}", is_full=True, init="svd")
KINDS = {kind.name: kind for kind in (DENSE, LOOKUP, SPARSE, LOW_RANK)}


def settled(kind: Kind, *, nonzeros: int, slots: int, dictionary_size: int, channels: int) -> Kind:
    """Return the kind of a coded layer whose coefficients are final.

    A pattern with hardly a zero makes a low-rank layer, a product of two matrices, whatever was planned; a low-rank layer that
    training thinned out becomes one of lookups.

    Args:
        kind: the kind that was planned.
        nonzeros: coefficients of the layer that are not 0.
        slots: coefficients of a full pattern, C_out * k * kH * kW.
        dictionary_size: k.
        channels: the channels of one group.
    """
    if kind.is_identity or not kind.is_coded:
        return kind
    return LOW_RANK if dictionary_size < channels and nonzeros >= MIN_FULL_DENSITY * slots else LOOKUP
