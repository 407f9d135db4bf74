"""memgen: does a language model remember an answer or work it out?"""

__version__ = "0.1.0"
