"""The one exception for what the person at the keyboard can mend."""


class UserError(Exception):
    """Bad input, named: which file, line or tensor, and what to do next."""
