"""Coded data sets, and federated learning in which they stand in for clients that are late.

A client uploads random combinations of its records plus noise, once. In every round the server
puts a gradient on them in the place of gradients that did not arrive.

Names are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyfed.lazy import lazy as _lazy

_HOME = {
    "Allocation": "pyfed.coded.allocation",
    "ArrivalEstimate": "pyfed.coded.arrivals",
    "CodedDataset": "pyfed.coded.dataset",
    "CodedFedL": "pyfed.coded.codedfedl",
    "DelayModel": "pyfed.coded.delays",
    "MeasuredDelays": "pyfed.coded.delays",
    "Plan": "pyfed.coded.planner",
    "PrivateStatistics": "pyfed.coded.baselines",
    "RandomFeatures": "pyfed.coded.features",
    "SCFL": "pyfed.coded.scfl",
    "allocate": "pyfed.coded.allocation",
    "arrival_probabilities": "pyfed.coded.delays",
    "arrival_variance": "pyfed.coded.variance",
    "best_alpha": "pyfed.coded.variance",
    "best_load": "pyfed.coded.loads",
    "coded_solution": "pyfed.coded.spectrum",
    "expected_return": "pyfed.coded.loads",
    "extreme_eigenvalues": "pyfed.coded.spectrum",
    "gradient_covariance": "pyfed.coded.variance",
    "gradient_variance": "pyfed.coded.variance",
    "plan": "pyfed.coded.planner",
    "reliable_load": "pyfed.coded.loads",
    # The in-process engine stands above this package; only its name is offered here.
    "simulate_coded": "pyfed.engines.coded",
}
_MODULES = ("baselines", "incentive", "privacy")

__all__ = [
    "SCFL",
    "Allocation",
    "ArrivalEstimate",
    "CodedDataset",
    "CodedFedL",
    "DelayModel",
    "MeasuredDelays",
    "Plan",
    "PrivateStatistics",
    "RandomFeatures",
    "allocate",
    "arrival_probabilities",
    "arrival_variance",
    "baselines",
    "best_alpha",
    "best_load",
    "coded_solution",
    "expected_return",
    "extreme_eigenvalues",
    "gradient_covariance",
    "gradient_variance",
    "incentive",
    "plan",
    "privacy",
    "reliable_load",
    "simulate_coded",
]

if TYPE_CHECKING:
    from pyfed.coded import baselines, incentive, privacy
    from pyfed.coded.allocation import Allocation, allocate
    from pyfed.coded.arrivals import ArrivalEstimate
    from pyfed.coded.baselines import PrivateStatistics
    from pyfed.coded.codedfedl import CodedFedL
    from pyfed.coded.dataset import CodedDataset
    from pyfed.coded.delays import DelayModel, MeasuredDelays, arrival_probabilities
    from pyfed.coded.features import RandomFeatures
    from pyfed.coded.loads import best_load, expected_return, reliable_load
    from pyfed.coded.planner import Plan, plan
    from pyfed.coded.scfl import SCFL
    from pyfed.coded.spectrum import coded_solution, extreme_eigenvalues
    from pyfed.coded.variance import (
        arrival_variance,
        best_alpha,
        gradient_covariance,
        gradient_variance,
    )
    from pyfed.engines.coded import simulate_coded

_MODULE_HOMES = {name: f"pyfed.coded.{name}" for name in _MODULES}
__getattr__, __dir__ = _lazy(__name__, _HOME | _MODULE_HOMES)
