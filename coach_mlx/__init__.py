"""A private self-care coach, made and checked on your own machine."""

__version__ = "0.1.0"
