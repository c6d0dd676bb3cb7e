"""What is said where the extra ``coded`` is not installed."""

from __future__ import annotations

import sys

import pytest

from pyfed.coded import DelayModel, best_load, extras, incentive

HOW = r'pip install "pyfed-kernels\[coded\]"'


@pytest.mark.parametrize("name", ["scipy", "dp_accounting"])
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for known in [one for one in sys.modules if one.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=f"needs {name} here, .* {HOW}") as caught:
        extras.scipy("optimize") if name == "scipy" else extras.dp_accounting()
    assert caught.value.name is not None and caught.value.name.split(".")[0] == name


def test_loads_and_incentives_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    model = DelayModel(0.01, 0.01, uplink=0.1, up_erasure=0.5)
    with pytest.raises(ModuleNotFoundError, match=HOW):
        best_load(model, 3.0, 500)
    with pytest.raises(ModuleNotFoundError, match=HOW):
        incentive.contract([1.0, 2.0], [0.5, 0.5], 9.0, noise=lambda e: 1 / e)


def test_what_is_there_is_given() -> None:
    assert extras.scipy("optimize").brentq(lambda x: x - 0.25, 0, 1) == pytest.approx(0.25)
    assert callable(extras.dp_accounting().get_epsilon_gaussian)
