"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A fault in what was asked or given, told in one line: what, where, and what to do.

    The command line prints the message and exits with code 2; anything else is a bug in this
    package and keeps its traceback.
    """
