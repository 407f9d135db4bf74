"""memgen: tell whether a language model remembers an answer or works it out."""

__version__ = "0.1.0"
