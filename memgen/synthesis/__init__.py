"""All runs of a profile together: a verdict on each claim of the study, and the numbers over seeds."""
