"""Runs and model versions: MLflow beside the control store, which alone is asked while serving."""
