"""Everything in this folder at once: plugins=all_of_them from here, plugins=examples.plugin.all_of_them from the repository's root."""

import importlib

for name in ("zsharp", "gradient_variance", "small_vit", "fashion_mnist", "wsd", "variance_table"):  # the table last: it lists methods
    importlib.import_module(f"{__package__}.{name}" if __package__ else name)
