"""Maps the folders to packages and hands the extension over to CMake; metadata: pyproject.toml."""

import os

from setuptools import find_packages, setup

# torch's variable for the number of compile jobs, under the name that CMake reads.
if "MAX_JOBS" in os.environ:
    os.environ.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", os.environ["MAX_JOBS"])

setup(
    # The folder triton_kernels/ never installs under its bare name: that belongs to Triton's own
    # package of mixture-of-experts kernels, and two of them in one environment break each other.
    packages=[*find_packages(include=["pyfed", "pyfed.*"]), "pyfed.triton_kernels"],
    package_dir={"pyfed.triton_kernels": "triton_kernels"},
    package_data={"pyfed": ["py.typed", "_C.pyi"]},
    cmake_source_dir=".",
)
