"""Where sessions are kept: the contract in ``base``, and one module for each store."""
