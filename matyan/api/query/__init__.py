"""The query language of the read API: one Python expression that is true or false of a run, or of a sequence of one.

`parse` checks a text against a whitelist of Python's grammar and compiles it to closures; nothing is ever handed to `eval`, and no
attribute of a Python object is looked up by a name from the text: attributes are the `Node`'s affair, methods stand in a table.
What a query may cost is bounded before and while it runs. No store and no HTTP here.

| file | subject |
|---|---|
| parse | the text becomes a tree, or an error that marks the place |
| compile | the tree becomes closures |
| values | what the closures call: operators, functions and methods, each bounded |
| facts | what every match needs, for whoever looks runs up in an index |
"""

from matyan.api.query.parse import Query, QueryError, parse
from matyan.api.query.values import EvaluationError, Node, TooManySteps

__all__ = ["EvaluationError", "Node", "Query", "QueryError", "TooManySteps", "parse"]
