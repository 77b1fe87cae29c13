"""A module that is imported inside a task only."""


def reverse(text):
    return text[::-1]
