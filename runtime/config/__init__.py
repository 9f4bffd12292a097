"""Configuration: dataclasses, and the only use of Hydra and OmegaConf."""
