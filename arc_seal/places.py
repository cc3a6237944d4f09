"""Where the files are that go with the package: in the wheel beside its modules, in a checkout beside its folder."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def conf_dir(package: Path = _PACKAGE) -> Path:
    """The folder of the Hydra configuration.

    Raises:
        FileNotFoundError: When the installation is broken and has none.
    """
    return _shared("conf", package)


def tools_dir(package: Path = _PACKAGE) -> Path:
    """The folder of the toolbox: one file a tool that a self-edit may call.

    Raises:
        FileNotFoundError: When the installation is broken and has none.
    """
    return _shared("tools", package)


def weights_dir(package: Path = _PACKAGE) -> Path:
    """The folder of the weights that come with arc-seal, one folder a model; inside the package, installed or not."""
    return package / "weights"


def _shared(name: str, package: Path) -> Path:
    for folder in (package / "_share" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"arc-seal's folder {name}/ is neither in {package / '_share'} nor in {package.parent}")
