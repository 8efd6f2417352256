"""Files of published modules for other runtimes: ONNX and LiteRT, made from a module's own files (see builders/convert.py)."""


class ConversionError(ValueError):
    """A module cannot be converted into a format; the message says at which layer or operation, and what to do."""
