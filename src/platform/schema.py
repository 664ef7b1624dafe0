"""What a pydantic model has against a value, in words that stay short whatever the value is."""

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


def shown(value):
    """A value as in Python's source, cut to some hundred characters: a file can name the same list a billion times."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no numbers of more than 4300 digits
        return "a number of thousands of digits"


def first_problem(error):
    """The key and the complaint of a ValidationError, and the value that it is about."""
    problem = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(map(str, problem["loc"]))
    return f"{key}: {problem['msg']}"
