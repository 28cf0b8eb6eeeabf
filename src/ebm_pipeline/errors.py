"""Errors that a user can cause and mend."""


class UserError(Exception):
    """Wrong input: says what was expected, what came and what to do. The command line shows only this message."""
