"""The figures of the book, a module for each stage: one function a figure, a frame in, an Altair chart out.

Memorization is blue and generalization orange everywhere; `theme` holds the look that all figures share.
"""
