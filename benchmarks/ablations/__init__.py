"""Experiments of benchmarks.ablation: each file has one or a few, which `--list` names."""
