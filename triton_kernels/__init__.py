"""Triton kernels, one module per family: tensors in, tensors out, nothing of pyfed above them.

Shapes, dtypes, devices and ranges are checked by the callers in ``pyfed.ops``. What only the
values can tell (a residue outside the field, a NaN) is OR-ed into ``word``, an int32 tensor of
shape (1,), with the bits of :mod:`.common`; the output is then meaningless.
"""

if __name__ == "triton_kernels":
    raise ImportError("import pyfed.triton_kernels")
