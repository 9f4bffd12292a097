"""Composes the rooms: the platform that `teal up` starts, the steps of the loop, the demo, its report."""
