"""Where conf/ and tools/ are found."""

from collections.abc import Callable
from pathlib import Path

import pytest

from arc_seal.files import conf_dir, tools_dir, weights_dir

PLACES = [(conf_dir, "conf"), (tools_dir, "tools")]


@pytest.mark.parametrize(("place", "name"), PLACES)
def test_in_a_checkout_it_is_beside_the_package(place: Callable[[], Path], name: str) -> None:
    assert place() == Path(__file__).resolve().parents[1] / name
    assert list(place().iterdir())


@pytest.mark.parametrize(("place", "name"), PLACES)
def test_installed_it_is_in_the_package(tmp_path: Path, place: Callable[[Path], Path], name: str) -> None:
    package = tmp_path / "arc_seal"
    (package / "_share" / name).mkdir(parents=True)
    (tmp_path / name).mkdir()  # another package's, in the same site-packages
    assert place(package) == package / "_share" / name


@pytest.mark.parametrize(("place", "name"), PLACES)
def test_a_broken_installation_says_so(tmp_path: Path, place: Callable[[Path], Path], name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"{name}/ is neither in"):
        place(tmp_path / "arc_seal")


def test_weights_are_in_the_package(tmp_path: Path) -> None:
    assert weights_dir() == Path(__file__).resolve().parents[1] / "arc_seal" / "weights"
    assert weights_dir(tmp_path) == tmp_path / "weights"
