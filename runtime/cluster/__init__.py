"""Processes and ports: starts and stops this home's Ray, finds who holds a port, submits jobs, examines the machine."""
