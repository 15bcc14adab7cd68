"""Every op in plain torch: its docstring is the formula, its code the specification."""
