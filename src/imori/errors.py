"""The errors that imori raises on purpose. Standard library only.

Every message names the thing, the value that is wrong, and what would be right. The command line prints it and exits
with 2; a program catches `ImoriError`.
"""


class ImoriError(Exception):
    """The root of every error that imori raises about its input."""


class ImoriWarning(UserWarning):
    """What imori took for granted, or left out, and goes on with; the command line prints it as a note."""


class TreeError(ImoriError, ValueError):
    """A network that cannot be written or built: the path, the shape there, and what would fit."""


class SizeError(TreeError):
    """A tree that cannot be built at this input size, and can at another."""

    smallest: tuple[int, ...] = ()
    """The smallest square input at which it can be built: (C, H, W)."""


class NameUnknown(ImoriError, LookupError):
    """A model, variant, framework or option that does not exist; the nearest names are listed."""


class WeightsError(ImoriError, ValueError):
    """Weights that do not fit: missing, unexpected or misshaped names, or a file that cannot be read."""

    names = 0
    """How many names are missing, unexpected or misshaped."""


class DataError(ImoriError, ValueError):
    """Photos, folders or lists that cannot be used; names the file or the class."""


class RecipeError(ImoriError, ValueError):
    """A training choice that is impossible, or that contradicts another one."""


class RunError(ImoriError, RuntimeError):
    """A run directory that cannot be written, read, or resumed."""


class FrameworkMissing(ImoriError, ImportError):
    """A framework that is not installed; names the extra that installs it."""


class ConversionError(ImoriError, ValueError):
    """A model that cannot be written for a framework, or that gives other numbers there."""


class DownloadError(ImoriError, RuntimeError):
    """A file that could not be fetched, or that is not what its publisher says; names the address and the place."""
