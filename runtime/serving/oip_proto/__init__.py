"""The Open Inference Protocol's messages, generated from inference.proto beside this."""
