"""The one family of errors that readers of the wire raise: the peer broke the rules, or one of our limits."""


class WireError(Exception):
    """
    Bytes that cannot be what they should be.

    Expected, because peers are not ours: it ends one exchange, or the reading of one body, and never more. Messages
    are lower case and name the value and the limit.
    """
