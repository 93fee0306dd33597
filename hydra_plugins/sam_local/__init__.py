"""Hydra finds plugins only below `hydra_plugins`, a namespace package: no __init__.py may lie beside this folder."""
