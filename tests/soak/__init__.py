"""A whole deployment under training programs for an hour, while things break: `python -m tests.soak --help`.

`deployment` starts and stops what runs, `faults` breaks it, `crowd` has the training programs (`trainer`), who write down what
they know (`diary`); `oracle` compares that with what is stored, `samples` judges what the processes took, `report` says it.
"""
