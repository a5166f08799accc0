"""Errors of the model package. Each message is one line that a person can act on."""


class WeightsError(ValueError):
    """A checkpoint cannot be found or read, or does not fit the network."""


class PresetError(ValueError):
    """A preset has an unknown field or an impossible value."""


class RleError(ValueError):
    """Masks or boxes cannot be encoded, for example because of NaN or shapes that disagree."""
