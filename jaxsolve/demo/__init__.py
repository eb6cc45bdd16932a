"""The main job on real data: ``python -m jaxsolve.demo``.

Cleans a corrupted data set by differentiating through a solver, solves a thousand
bootstrap replicas in one batch, and puts the solver into an optax chain. Needs
``pip install 'jaxsolve[demo]'``.
"""
