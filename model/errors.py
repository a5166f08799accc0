"""What goes wrong in the model room, each with a line a person can act on."""


class WeightsError(ValueError):
    """A checkpoint that cannot be found, read, or does not fit the network."""


class PresetError(ValueError):
    """A preset that does not exist in this form: an unknown field or an impossible value."""


class RleError(ValueError):
    """Masks or boxes that no RLE can be made of (NaN, shapes that disagree)."""
