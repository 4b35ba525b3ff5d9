"""The error of a history that cannot be read."""


class HistoryError(RuntimeError):
    """A history could not be read; its message is one sentence that says what is missing and what to do."""
