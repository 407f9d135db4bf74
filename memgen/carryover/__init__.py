"""Does it carry over? What was found in a model, asked of other seeds, forms, tasks, sizes, checkpoints and texts.

`matching` compares the neurons of two models by what they do, not by their index; `retrained` applies the study's shift
of one seed to the model of another; `transfer` applies to one part of the inputs (a form, a task) what was fitted on
another; `checkpoints` asks the same of earlier states of a model; `tables` puts the numbers of runs beside one another.
"""
