"""The end of a process whose place another has taken."""


class Superseded(RuntimeError):
    """Another process has taken this one's place, and said so durably; the message says which.

    Starting it again would only take the place back, and so on without end: that must be somebody's decision.
    """
