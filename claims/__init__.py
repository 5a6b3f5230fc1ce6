"""One script a technique: the paper's claim, small, honest, repeatable. `python -m claims.wanda` prints a verdict."""
