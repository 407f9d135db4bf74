"""memgen: tell whether a language model remembers an answer or works it out."""

import sys

__version__ = "0.1.0"

# Altair's jsonschema compiles a grammar of web addresses where it finds one: two seconds of every stage, to no use.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
