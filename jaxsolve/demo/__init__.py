"""The main job on real data: ``python -m jaxsolve.demo``.

Cleans a corrupted data set by differentiating through a solver, solves a thousand
bootstrap replicas in one batch, puts the solver into an optax chain, and gives each of
two photographs the colours of the other. Needs ``pip install 'jaxsolve[demo]'``.
"""
