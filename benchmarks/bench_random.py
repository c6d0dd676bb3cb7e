"""Random words and residues against OpenSSL's ChaCha20 and torch's generator."""

from __future__ import annotations

from collections.abc import Callable

import baselines as user
import pyfed
from contests import Contest, sizes
from pyfed import SOLINAS31
from pyfed.ops.random import WORDS, domain

RAW = bytes(range(32))
KEY = pyfed.Key(RAW)


@sizes(cpu={(1 << 22,): (user.OPENSSL,)}, cuda={(1 << 28,): ()}, small=(1003,))
def bench_random_words(measure: Callable[[Contest], None], device: str, size: tuple[int]) -> None:
    (count,) = size
    measure(
        Contest(
            op="random_words",
            shape=f"{count:,}",
            run=lambda: pyfed.ops.random_words(KEY, count, device=device),
            bytes=4 * count,
            chacha=4 * count,
            # Same key, same nonce: OpenSSL's keystream is the very same one.
            baselines={user.OPENSSL: lambda: user.openssl_words(RAW, (0, 0, domain(WORDS)), count)},
        )
    )


@sizes(
    cpu={(1 << 22,): (user.OPENSSL, user.REJECTION)},
    cuda={(1 << 28,): (user.TORCH_RANDOM,)},
    small=(1003,),
)
def bench_random_residues(
    measure: Callable[[Contest], None], device: str, size: tuple[int]
) -> None:
    (count,) = size
    p = SOLINAS31.modulus
    measure(
        Contest(
            op="random_residues",
            shape=f"{count:,}",
            run=lambda: pyfed.ops.random_residues(KEY, count, SOLINAS31, device=device),
            bytes=4 * count,
            chacha=4 * count,
            baselines={
                user.OPENSSL: lambda: user.openssl_keystream(RAW, count),
                user.REJECTION: lambda: user.openssl_residues(RAW, count, p),
                user.TORCH_RANDOM: lambda: user.torch_randint(count, p, device),
            },
        )
    )
