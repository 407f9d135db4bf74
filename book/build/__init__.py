"""Everything that turns results into pages; ``python -m book.build`` lists its commands."""
