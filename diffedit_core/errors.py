"""The one exception that means: the input is at fault, not the program."""


class InputError(ValueError):
    """Bad input, as one sentence that names the file, key or value and the remedy.

    The command line prints the sentence and exits with code 2; library code sees a `ValueError`.
    """
